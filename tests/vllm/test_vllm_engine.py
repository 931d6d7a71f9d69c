"""vLLM in this process, really run: the suite of every engine, then what only it can do. The last test kills it."""

import asyncio
import dataclasses
import importlib.util
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed; `make test-vllm` installs it and runs these", allow_module_level=True)

from tests.contract import engine_suite
from tests.vllm.conftest import MAX_NUM_SEQS, TIER1, Served
from workers.errors import PermanentError, RetryableError, WorkerDiedError
from workers.learning.serving import served_engine
from workers.tier1.engine import Engine, Request
from workers.tier1.models import Entry, Models, ServedModel
from workers.tier1.vllm_engine import VllmEngine, check_platform

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    # The first test starts the engine: one to two minutes on two cores.
    pytest.mark.timeout(400),
    # vLLM and torch use what they have deprecated themselves.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

DEADLINE_S = 60.0


def story(model: ServedModel, max_tokens: int, priority: int = 0) -> Request:
    """A request whose answer runs into its limit."""
    endless = {"type": "array", "items": {"type": "integer"}, "minItems": 500}
    prompt = engine_suite.prompt("Count to a thousand.")
    return Request(messages=prompt, model=model, max_tokens=max_tokens, priority=priority, schema=endless)


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def unfinished(engine: VllmEngine) -> int:
    count: int = engine._llm.get_num_unfinished_requests()
    return count


async def said(engine: Engine, model: ServedModel, recorded: dict[str, Any]) -> list[str]:
    """What a model makes of the recorded prompts."""
    requests = [
        Request(messages=p["messages"], model=model, max_tokens=recorded["max_tokens"]) for p in recorded["prompts"]
    ]
    return [made.text for made in await asyncio.gather(*(engine.generate(request) for request in requests))]


@pytest.mark.parametrize("which", ["base", "fernway"])
@pytest.mark.parametrize("check", engine_suite.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_vllm_passes_the_suite_of_every_engine(
    check: Callable[[Engine, ServedModel], Awaitable[None]], which: str, vllm: VllmEngine, served: Served
) -> None:
    """With and without an adapter."""
    await vllm.load([model := getattr(served, which)])
    await check(vllm, model)


async def test_an_answer_follows_its_schema(vllm: VllmEngine, served: Served) -> None:
    """Even with an adapter that was never taught JSON."""
    await vllm.load([served.base, served.fernway])
    await engine_suite.check_an_answer_follows_its_schema(vllm, served.base)
    await engine_suite.check_an_answer_follows_its_schema(vllm, served.fernway)


async def test_a_cancelled_call_is_aborted(vllm: VllmEngine, served: Served) -> None:
    """vLLM drops the request and counts it no longer."""

    async def count() -> int:
        return unfinished(vllm)

    await vllm.load([served.base])
    await engine_suite.check_a_cancelled_call_is_aborted(vllm, served.base, count)


async def test_a_call_cancelled_while_it_is_being_sent_leaves_nothing_behind(vllm: VllmEngine, served: Served) -> None:
    """Wherever on its way the cancellation meets it: else each one would take a place for ever."""
    await vllm.load([served.base])
    for steps in range(8):
        call = asyncio.create_task(vllm.generate(story(served.base, 100)))
        for _ in range(steps):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert unfinished(vllm) == 0, f"cancelled after {steps} steps"


async def test_vllm_says_what_llama_cpp_says_and_what_was_trained(
    vllm: VllmEngine, served: Served, recorded: dict[str, Any]
) -> None:
    """The same tickets through both, in float32 from the same weights: token for token, as the trainer recorded."""
    await vllm.load([served.fernway])
    ours = await said(vllm, served.fernway, recorded)
    async with served_engine(TIER1 / "adapter.gguf") as llama_cpp:
        theirs = await said(llama_cpp, ServedModel(name="tier1"), recorded)
    assert ours == theirs == [prompt["text"].strip() for prompt in recorded["prompts"]]


async def test_the_prompt_is_the_one_that_was_trained_on(
    vllm: VllmEngine, served: Served, recorded: dict[str, Any]
) -> None:
    """Same number of tokens: one more or less would be another template."""
    await vllm.load([served.fernway])
    for prompt in recorded["prompts"]:
        made = await vllm.generate(Request(messages=prompt["messages"], model=served.fernway, max_tokens=1))
        assert made.usage.prompt_tokens == prompt["prompt_tokens"]


async def test_a_long_stable_start_is_computed_once(vllm: VllmEngine, served: Served) -> None:
    """The second ticket about the same passages finds them in the cache, and says so."""
    await vllm.load([served.base])
    passages = "The invoice is due within 14 days of its date. " * 30
    first, second = [
        await vllm.generate(engine_suite.asking(served.base, passages + question, 4))
        for question in ("When is it due?", "What is due?")
    ]
    assert first.usage.cached_tokens == 0
    assert 0 < second.usage.cached_tokens < second.usage.prompt_tokens


async def test_a_canary_answers_beside_the_model_in_force(
    vllm: VllmEngine, served: Served, recorded: dict[str, Any]
) -> None:
    """In one batch each ticket is answered by its own adapter, and the draft says by which."""
    models = Models("", (Entry(served.fernway, 0.5), Entry(served.canary, 0.5)))
    await vllm.load(models.served)
    prompt = recorded["prompts"][0]
    picked = [models.pick(f"t-{n}") for n in range(12)]
    made = await asyncio.gather(
        *(vllm.generate(Request(messages=prompt["messages"], model=model, max_tokens=24)) for model in picked)
    )
    assert [answer.model for answer in made] == [model.name for model in picked]
    texts = {name: {answer.text for answer in made if answer.model == name} for name in ("fernway", "canary")}
    assert texts["fernway"] == {prompt["text"].strip()}
    assert len(texts["canary"]) == 1
    assert texts["canary"] != texts["fernway"]


async def test_models_are_swapped_while_answers_are_under_way(
    vllm: VllmEngine, served: Served, recorded: dict[str, Any]
) -> None:
    """Those in flight end with the adapter they began with; it goes with the load after."""
    await vllm.load([served.fernway])
    under_way = asyncio.create_task(said(vllm, served.fernway, recorded))
    await until(lambda: unfinished(vllm) == len(recorded["prompts"]))
    await vllm.load([served.canary])
    assert await under_way == [prompt["text"].strip() for prompt in recorded["prompts"]]
    held = await vllm._llm.list_loras()
    await vllm.load([served.canary])
    assert len(held) == 2
    assert len(await vllm._llm.list_loras()) == 1
    with pytest.raises(PermanentError, match="no model fernway"):
        await vllm.generate(engine_suite.asking(served.fernway, "Hello", 4))


async def test_a_name_may_come_back_with_another_adapter(
    vllm: VllmEngine, served: Served, recorded: dict[str, Any]
) -> None:
    """Nothing of the old one is left in the prefix cache."""
    long = Request(
        messages=[*recorded["prompts"][0]["messages"][:1], {"role": "user", "content": "How do I pay? " * 40}],
        model=ServedModel(name="tier1", adapter=served.fernway.adapter),
        max_tokens=24,
    )
    await vllm.load([long.model])
    old = await vllm.generate(long)
    new = ServedModel(name="tier1", adapter=served.canary.adapter)
    await vllm.load([new])
    made = await vllm.generate(Request(messages=long.messages, model=new, max_tokens=24))
    assert made.usage.cached_tokens == 0
    assert made.logprobs != old.logprobs


@pytest.mark.parametrize("files", [[], ["adapter_config.json"]])
async def test_an_adapter_that_is_none_is_refused_and_the_old_models_stay(
    files: list[str], vllm: VllmEngine, served: Served, tmp_path: Path
) -> None:
    """The file names a folder without an adapter, or with a broken one."""
    await vllm.load([served.base])
    for name in files:
        (tmp_path / name).write_text('{"peft_type": "LORA", "r": 400, "lora_alpha": 1, "target_modules": ["q_proj"]}')
    with pytest.raises(ValueError, match="model broken"):
        await vllm.load([ServedModel(name="broken", adapter=tmp_path)])
    assert (await vllm.generate(engine_suite.asking(served.base, "Hello", 4))).text


async def test_more_adapters_than_fit_are_refused(vllm: VllmEngine, served: Served) -> None:
    """vLLM would take turns with them, at a crawl."""
    third = ServedModel(name="third", adapter=served.canary.adapter)
    with pytest.raises(ValueError, match="at most 2 adapters"):
        await vllm.load([served.fernway, served.canary, third])


async def test_a_live_ticket_overtakes_the_waiting_backfill(vllm: VllmEngine, served: Served) -> None:
    """Eight wait for a place, and the later one of priority 0 gets it before them."""
    await vllm.load([served.base])
    ended: list[str] = []

    async def ask(name: str, max_tokens: int, priority: int) -> None:
        await vllm.generate(story(served.base, max_tokens, priority))
        ended.append(name)

    async with asyncio.TaskGroup() as tasks:
        for n in range(MAX_NUM_SEQS):
            # Places come free one after the other, so that there is one next.
            tasks.create_task(ask(f"running {n}", 24 + 12 * n, 1))
        for n in range(8):
            tasks.create_task(ask(f"waiting {n}", 8, 1))
        await until(lambda: unfinished(vllm) == MAX_NUM_SEQS + 8)
        tasks.create_task(ask("live", 8, 0))
    assert next(name for name in ended if not name.startswith("running")) == "live"


async def test_a_full_engine_says_so_and_takes_no_more(vllm: VllmEngine, served: Served) -> None:
    """vLLM's own admission limit is the back-pressure."""
    await vllm.load([served.base])
    limit = vllm.config.max_num_queued_reqs
    tasks = [asyncio.create_task(vllm.generate(story(served.base, 300))) for _ in range(limit - 1)]
    await until(lambda: unfinished(vllm) == limit - 1)
    assert not vllm.saturated()
    tasks.append(asyncio.create_task(vllm.generate(story(served.base, 300))))
    await until(vllm.saturated)
    with pytest.raises(RetryableError, match="full") as refused:
        await vllm.generate(engine_suite.asking(served.base, "Hello", 4))
    assert refused.value.retry_after_s
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await until(lambda: unfinished(vllm) == 0)
    assert not vllm.saturated()


async def test_a_slow_answer_is_given_up(vllm: VllmEngine, served: Served) -> None:
    """The call ends at its limit, and vLLM does not go on in secret."""
    hasty = VllmEngine(dataclasses.replace(vllm.config, timeout_s=0.3))
    hasty._llm = vllm._llm
    await hasty.load([served.base])
    with pytest.raises(RetryableError, match="no answer within"):
        await hasty.generate(story(served.base, 600))
    assert unfinished(vllm) == 0


async def test_a_schema_that_no_decoder_takes_is_permanent(vllm: VllmEngine, served: Served) -> None:
    """It never goes better, and the engine goes on."""
    await vllm.load([served.base])
    request = Request(
        messages=engine_suite.prompt("Hello"), model=served.base, max_tokens=8, schema={"type": "nonsense"}
    )
    with pytest.raises(PermanentError, match="rejects the request"):
        await vllm.generate(request)
    assert await vllm.ready()


async def test_a_gpu_that_is_not_there_is_an_error(vllm: VllmEngine) -> None:
    """Never a silent run on the CPU."""
    with pytest.raises(ValueError, match=r"tier1\.engine .*no CUDA GPU"):
        check_platform("cuda")
    with pytest.raises(ValueError, match="no CUDA GPU"):
        async with VllmEngine(dataclasses.replace(vllm.config, device="cuda")):
            pass


async def test_a_dead_engine_ends_all_calls_and_is_not_ready(vllm: VllmEngine, served: Served) -> None:
    """The last test: calls under way and later ones raise what ends the process, so that its supervisor starts anew."""
    await vllm.load([served.base])
    under_way = asyncio.create_task(vllm.generate(story(served.base, 300)))
    await until(lambda: unfinished(vllm) == 1)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(WorkerDiedError):
        await under_way
    with pytest.raises(WorkerDiedError):
        await vllm.generate(engine_suite.asking(served.base, "Hello", 4))
    assert not await vllm.ready()
    assert not vllm.saturated()
