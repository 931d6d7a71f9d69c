"""What every tier-1 engine must do: each engine's tests run CHECKS, and those below that they can look in for."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from workers.tier1.engine import ContextExceededError, Engine, Request
from workers.tier1.models import ServedModel
from workers.tier1.prompts import ChatMessage

DEADLINE_S = 60.0

WORDS_TOO_MANY = 20_000
"""More than any window of the engines tested here."""

COLOUR_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "maxLength": 12}, "warm": {"type": "boolean"}},
    "required": ["colour", "warm"],
    "additionalProperties": False,
}


def prompt(question: str) -> list[ChatMessage]:
    """A chat with one question."""
    return [{"role": "system", "content": "You answer in one sentence."}, {"role": "user", "content": question}]


def asking(model: ServedModel, question: str, max_tokens: int) -> Request:
    """A request for one answer."""
    return Request(messages=prompt(question), model=model, max_tokens=max_tokens)


async def check_an_answer_has_text_usage_and_log_probabilities(engine: Engine, model: ServedModel) -> None:
    """All that the checker and the costs need."""
    made = await engine.generate(asking(model, "What is the capital of France?", 60))
    assert made.text == made.text.strip() != ""
    assert made.finish_reason == "stop"
    assert made.model == model.name
    assert made.usage.prompt_tokens > 5
    assert 0 < made.usage.completion_tokens <= 60
    assert made.logprobs is not None
    assert made.logprobs.minimum <= made.logprobs.q10 <= made.logprobs.q50 <= 0
    assert made.logprobs.minimum <= made.logprobs.mean <= 0
    # An engine may count its end-of-text token or not.
    assert abs(made.logprobs.tokens - made.usage.completion_tokens) <= 1


async def check_an_answer_that_runs_into_its_limit_says_so(engine: Engine, model: ServedModel) -> None:
    """The checker refuses it as truncated."""
    made = await engine.generate(asking(model, "Tell me a long story about a river.", 4))
    assert made.finish_reason == "length"
    assert made.usage.completion_tokens == 4


async def check_decoding_is_greedy(engine: Engine, model: ServedModel) -> None:
    """The same prompt gets the same answer, so that labels hold for what is served."""
    first = await engine.generate(asking(model, "Name a colour.", 12))
    again = await engine.generate(asking(model, "Name a colour.", 12))
    assert (again.text, again.finish_reason) == (first.text, first.finish_reason)


async def check_many_prompts_are_in_flight_and_each_gets_its_own_answer(engine: Engine, model: ServedModel) -> None:
    """More than the engine works on at a time wait in it; none is refused or mixed up."""
    requests = [asking(model, f"Say hello {'again ' * n}.", 8) for n in range(8)]
    made = await asyncio.gather(*(engine.generate(request) for request in requests))
    assert all(m.text for m in made)
    lengths = [m.usage.prompt_tokens for m in made]
    assert lengths == sorted(set(lengths))


async def check_a_running_engine_is_ready_and_has_room(engine: Engine, model: ServedModel) -> None:
    """An idle engine takes a prompt, and says so."""
    assert await engine.ready() is True
    assert engine.saturated() is False


async def check_a_prompt_beyond_the_window_is_told_apart(engine: Engine, model: ServedModel) -> None:
    """Its caller can cut the prompt; nothing else would help, and the engine still answers others."""
    with pytest.raises(ContextExceededError):
        await engine.generate(asking(model, "river " * WORDS_TOO_MANY, 8))
    assert (await engine.generate(asking(model, "Say hello.", 4))).text


async def check_the_engine_goes_on_after_a_cancelled_call(engine: Engine, model: ServedModel) -> None:
    """A revoked partition's tickets are dropped in the middle; those of the next get answers."""
    dropped = asyncio.create_task(engine.generate(asking(model, "Tell me a long story about a river.", 200)))
    await asyncio.sleep(0)
    dropped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dropped
    assert (await engine.generate(asking(model, "Say hello.", 4))).text


async def check_loading_what_is_loaded_changes_nothing(engine: Engine, model: ServedModel) -> None:
    """The models file may be written anew with the same models, while answers are under way."""
    before = await engine.generate(asking(model, "Name a colour.", 12))
    under_way = asyncio.create_task(engine.generate(asking(model, "Name a colour.", 12)))
    await engine.load([model])
    after = await engine.generate(asking(model, "Name a colour.", 12))
    assert (await under_way).text == after.text == before.text


CHECKS: Sequence[Callable[[Engine, ServedModel], Awaitable[None]]] = (
    check_an_answer_has_text_usage_and_log_probabilities,
    check_an_answer_that_runs_into_its_limit_says_so,
    check_decoding_is_greedy,
    check_many_prompts_are_in_flight_and_each_gets_its_own_answer,
    check_a_running_engine_is_ready_and_has_room,
    check_a_prompt_beyond_the_window_is_told_apart,
    check_the_engine_goes_on_after_a_cancelled_call,
    check_loading_what_is_loaded_changes_nothing,
)
"""For every engine, the fake one, too."""


async def check_an_answer_follows_its_schema(engine: Engine, model: ServedModel) -> None:
    """For engines with a real decoder: it can't write anything else."""
    request = Request(
        messages=prompt("Which colour is a ripe tomato?"), model=model, max_tokens=60, schema=COLOUR_SCHEMA
    )
    made = await engine.generate(request)
    answer = json.loads(made.text)
    assert set(answer) == {"colour", "warm"}
    assert isinstance(answer["colour"], str)
    assert isinstance(answer["warm"], bool)


async def check_a_cancelled_call_is_aborted(
    engine: Engine, model: ServedModel, unfinished: Callable[[], Awaitable[int]]
) -> None:
    """For engines whose `unfinished` requests can be counted: nobody pays for an answer that nobody waits for."""
    # The schema keeps a real model from ending early: the list is as long as the answer's limit.
    endless = {"type": "array", "items": {"type": "integer"}, "minItems": 500}
    request = Request(messages=prompt("Count to a thousand."), model=model, max_tokens=400, schema=endless)
    call = asyncio.create_task(engine.generate(request))
    await _until(unfinished, 1)
    assert not call.done()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await _until(unfinished, 0)


async def _until(unfinished: Callable[[], Awaitable[int]], count: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while await unfinished() != count:
        assert time.monotonic() < deadline, f"the engine has {await unfinished()} unfinished requests, not {count}"
        await asyncio.sleep(0.02)
