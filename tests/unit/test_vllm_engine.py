"""What of the vLLM engine can be told without vLLM; the rest is in tests/vllm."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workers.errors import PermanentError, RetryableError
from workers.tier1.engine import Request
from workers.tier1.models import ServedModel
from workers.tier1.vllm_engine import VllmConfig, VllmEngine, check_platform, generation


def final(finish_reason: str, cached: int | None = 4) -> Any:
    """A RequestOutput of three tokens; at the second a token that was not taken is the likelier one."""
    logprobs = [
        {7: SimpleNamespace(logprob=-0.1)},
        {8: SimpleNamespace(logprob=-0.5), 9: SimpleNamespace(logprob=-2.0)},
        {2: SimpleNamespace(logprob=-0.3)},
    ]
    answer = SimpleNamespace(text=" Hello.\n", token_ids=[7, 9, 2], logprobs=logprobs, finish_reason=finish_reason)
    return SimpleNamespace(outputs=[answer], prompt_token_ids=[1, 2, 3, 4, 5], num_cached_tokens=cached)


def test_a_final_output_becomes_a_generation() -> None:
    """Its text, its usage, and the log-probabilities of the tokens that were taken, not of those that were likelier."""
    made = generation(final("stop"), "fernway")
    assert (made.text, made.finish_reason, made.model) == ("Hello.", "stop", "fernway")
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.cached_tokens) == (5, 3, 4)
    assert made.logprobs is not None
    assert (made.logprobs.minimum, made.logprobs.tokens) == (-2.0, 3)


def test_no_count_of_cached_tokens_is_none() -> None:
    """vLLM leaves it out where it doesn't cache."""
    assert generation(final("length", cached=None), "fernway").usage.cached_tokens == 0


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_request_that_vllm_gave_up_is_tried_again(reason: str) -> None:
    """Half an answer is none."""
    with pytest.raises(RetryableError, match=reason):
        generation(final(reason), "fernway")


def own(folder: Path) -> VllmEngine:
    """An engine that was not started."""
    return VllmEngine(
        VllmConfig(model=folder, context_tokens=768, max_num_seqs=4, max_num_queued_reqs=8, timeout_s=1.0, device="cpu")
    )


async def test_a_model_that_was_not_loaded_is_permanent(tmp_path: Path) -> None:
    """The base model does not answer in its place."""
    request = Request(messages=[], model=ServedModel(name="unheard-of"), max_tokens=4)
    with pytest.raises(PermanentError, match="no model unheard-of"):
        await own(tmp_path).generate(request)


async def test_an_engine_that_was_not_started_is_not_ready(tmp_path: Path) -> None:
    """Nor is one that has stopped."""
    assert not await own(tmp_path).ready()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_missing_vllm_is_named_with_its_setting() -> None:
    """And with the extra that installs it."""
    with pytest.raises(ValueError, match=r"tier1\.engine .*not installed .*extra: vllm"):
        check_platform("cuda")
