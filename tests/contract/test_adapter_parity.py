"""The adapter that llama.cpp serves says what the adapter that was trained said."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from workers.learning.serving import MODEL, served_engine
from workers.tier1.engine import Generation, Request
from workers.tier1.openai_engine import OpenAIEngine
from workers.tier1.prompts import ChatMessage

TIER1 = Path(__file__).parents[2] / "examples" / "fernway" / "tier1"


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """Prompts with the first greedy tokens of the model as it was trained (workers/learning/parity.py)."""
    found: dict[str, Any] = json.loads((TIER1 / "parity.json").read_text())
    return found


async def _said(engine: OpenAIEngine, recorded: dict[str, Any]) -> list[str]:
    return [(await _answer(engine, p["messages"], recorded["max_tokens"])).text for p in recorded["prompts"]]


async def _answer(engine: OpenAIEngine, messages: list[ChatMessage], max_tokens: int) -> Generation:
    return await engine.generate(Request(messages=messages, model=MODEL, max_tokens=max_tokens))


@pytest_asyncio.fixture
async def distilled() -> AsyncIterator[OpenAIEngine]:
    async with served_engine(TIER1 / "adapter.gguf", threads=1) as engine:
        yield engine


@pytest_asyncio.fixture
async def untuned() -> AsyncIterator[OpenAIEngine]:
    async with served_engine(None, threads=1) as engine:
        yield engine


async def test_the_served_adapter_gives_the_tokens_of_the_trained_one(
    distilled: OpenAIEngine, recorded: dict[str, Any]
) -> None:
    """Token for token, on every recorded prompt, through the server's own chat template."""
    assert await _said(distilled, recorded) == [p["text"].strip() for p in recorded["prompts"]]


async def test_without_the_adapter_the_same_model_says_something_else(
    untuned: OpenAIEngine, recorded: dict[str, Any]
) -> None:
    """Else the test above would prove nothing."""
    said = await _said(untuned, recorded)
    assert all(text != p["text"].strip() for text, p in zip(said, recorded["prompts"], strict=True))


async def test_the_server_builds_the_prompt_that_was_trained_on(
    distilled: OpenAIEngine, recorded: dict[str, Any]
) -> None:
    """Same number of tokens: one more or less would be another template."""
    for prompt in recorded["prompts"]:
        made = await _answer(distilled, prompt["messages"], 1)
        assert made.usage.prompt_tokens == prompt["prompt_tokens"]
