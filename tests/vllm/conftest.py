"""vLLM itself, on the CPU, with the example company's model. Starting it takes a minute, so one engine serves all."""

import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from workers.learning.base_model import HEADS, KV_HEADS, as_hugging_face
from workers.learning.vllm_folder import to_peft
from workers.tier1.models import ServedModel
from workers.tier1.vllm_engine import VllmConfig, VllmEngine

ROOT = Path(__file__).parents[2]
TIER1 = ROOT / "examples" / "fernway" / "tier1"
CACHE = ROOT / ".headgate" / "vllm"
"""The base model takes half a minute to convert and half a gigabyte: once for all runs."""

MAX_NUM_SEQS = 4
"""Few, so that a test can fill it."""


@dataclass(frozen=True, slots=True)
class Served:
    """The models of these tests."""

    base: ServedModel
    fernway: ServedModel
    canary: ServedModel
    """The same adapter at half its strength: another model, without another training."""


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The base model as a Hugging Face folder."""
    folder = CACHE / "model"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        # In place only when it is whole: a run that is stopped here leaves no half model behind.
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            as_hugging_face(Path(scratch) / "model")
            shutil.move(Path(scratch) / "model", folder)
    return folder


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The shipped adapter, and the weaker one, as folders."""
    adapters = tmp_path_factory.mktemp("adapters")
    fernway = to_peft(TIER1 / "adapter.gguf", adapters / "fernway", HEADS, KV_HEADS)
    canary = adapters / "canary"
    shutil.copytree(fernway, canary)
    config = json.loads((canary / "adapter_config.json").read_text())
    (canary / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] / 2}))
    return Served(
        ServedModel(name="base"),
        ServedModel(name="fernway", adapter=fernway),
        ServedModel(name="canary", adapter=canary),
    )


@pytest.fixture(scope="session")
def recorded() -> dict[str, Any]:
    """Prompts with the first greedy tokens of the model as it was trained (workers/learning/parity.py)."""
    found: dict[str, Any] = json.loads((TIER1 / "parity.json").read_text())
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm(model_folder: Path) -> AsyncIterator[VllmEngine]:
    """The engine, with no model loaded."""
    # Not pinned: the machine's cores are llama.cpp's and the tests', too.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    config = VllmConfig(
        model=model_folder,
        context_tokens=768,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_queued_reqs=4 * MAX_NUM_SEQS,
        timeout_s=100.0,
        device="cpu",
        dtype="float32",
    )
    async with VllmEngine(config) as engine:
        sockets = engine._llm.engine_core.resources.ctx
        yield engine
    # vLLM leaves it to the collector, which would complain in whichever test it runs.
    sockets.destroy(linger=0)
