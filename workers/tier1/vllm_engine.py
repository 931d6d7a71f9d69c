"""The engine that is vLLM in this process: one request a ticket, vLLM batches them.

The model computes in a child process of vLLM's own; this one only talks to it. When the child dies nothing can be
answered here any more, so it raises WorkerDiedError and leaves the restart to whoever supervises this process.
Adapters are told apart by number, never by name, so that an adapter may come back changed under its old name
without meeting what vLLM's prefix cache kept of the old one.
"""

import asyncio
import importlib.util
import os
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from schemas.generations import Usage
from workers.errors import PermanentError, RetryableError, WorkerDiedError
from workers.tier1.engine import ContextExceededError, Generation, Request
from workers.tier1.logprobs import summarised
from workers.tier1.models import ServedModel
from workers.tier1.prompts import ChatMessage

MAX_LORAS = 2
"""Adapters side by side: the one in force and a canary. vLLM reserves memory for as many."""

CPU_KV_CACHE_BYTES = 1 << 30
"""On the CPU vLLM would take most of the machine's memory; this is 23,000 tokens of SmolLM2-135M in float32."""

BUSY_S = 1.0
"""When to ask again a full engine (a guess: it ends several short answers a second)."""

STOP_S = 20.0
"""How long the child may take to end before it is killed."""

_Key = tuple[str, Path | None]
"""A model is its name and its adapter: a name may come back with another adapter."""


@dataclass(frozen=True, slots=True)
class VllmConfig:
    """What to run, where, and how much at a time."""

    model: Path
    """The base model's Hugging Face folder; its chat template is used."""
    context_tokens: int
    """Prompt and answer."""
    max_num_seqs: int
    """Answers generated at a time."""
    max_num_queued_reqs: int
    """Requests in the engine, running and waiting. Above `max_num_seqs` it never waits for the next ticket, and a later
    request of a better priority can overtake."""
    timeout_s: float
    device: Literal["cpu", "cuda"]
    dtype: str = "auto"
    """In vLLM's words: "auto" is 16 bits, "float32" gives the tokens that llama.cpp gives."""
    gpu_memory_utilization: float = 0.9
    """Share of the GPU's memory that is vLLM's."""
    max_lora_rank: int = 16


class VllmEngine:
    """An Engine on vLLM's AsyncLLM. Starting takes a minute or two; once entered it answers at full speed."""

    def __init__(self, config: VllmConfig) -> None:
        self.config = config
        self._llm: Any = None
        self._models: dict[_Key, Any] = {}
        """The models loaded last, each with its LoRARequest, or None for the base model."""
        self._leaving: dict[_Key, Any] = {}
        """Those that only the load before had: tickets that were given to them may still be on their way."""
        self._last_lora_id = 0

    async def __aenter__(self) -> Self:
        """Start vLLM.

        Raises: ValueError naming the setting if vLLM is missing or can't run where it should.
        """
        _set_environment()
        check_platform(self.config.device)
        # Minutes: in a thread, so that the process still answers its health checks.
        await asyncio.to_thread(self._start)
        try:
            # The first request compiles and allocates (18 s were seen): before anybody waits for it.
            await self._generate(self._tokens([ChatMessage(role="user", content="Hello")]), _params(1, None))
        except BaseException:
            await asyncio.to_thread(self._stop)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if (listening := self._llm.output_handler) is not None:
            # vLLM ends its child first, which this task would report as a death, with all of its stack.
            listening.cancel()
        await asyncio.to_thread(self._stop)

    async def generate(self, request: Request) -> Generation:
        """See Engine."""
        lora = self._lora(request.model)
        tokens = self._tokens(request.messages)
        if len(tokens) + request.max_tokens > self.config.context_tokens:
            needed = f"{len(tokens)} prompt tokens and {request.max_tokens} for the answer"
            raise ContextExceededError(f"vLLM: {needed} don't fit into {self.config.context_tokens}")
        params = _params(request.max_tokens, request.schema)
        output = await self._generate(tokens, params, lora, request.priority)
        return generation(output, request.model.name)

    async def load(self, models: Sequence[ServedModel]) -> None:
        """See Engine. Models that are no longer named can be asked until the next load, for the tickets that were given
        to them just before."""
        if len({_key(model) for model in models if model.adapter}) > MAX_LORAS:
            raise ValueError(f"vLLM serves at most {MAX_LORAS} adapters side by side")
        known = self._leaving | self._models
        added: dict[_Key, Any] = {}
        try:
            for model in models:
                if (key := _key(model)) not in known:
                    added[key] = await self._added(model)
        except BaseException:
            await self._remove(added)
            raise
        serving = {_key(model): (known | added)[_key(model)] for model in models}
        leaving = {key: lora for key, lora in self._models.items() if key not in serving}
        gone = {key: lora for key, lora in known.items() if key not in serving | leaving}
        self._models, self._leaving = serving, leaving
        # An answer that is still being written on one of these makes vLLM load it again, for as long as it takes.
        await self._remove(gone)

    async def ready(self) -> bool:
        """See Engine."""
        return self._llm is not None and not self._llm.errored

    def saturated(self) -> bool:
        """See Engine. A dead one is not: the next request finds out, and that ends the process."""
        unfinished: int = self._llm.get_num_unfinished_requests()
        return not self._llm.errored and unfinished >= self.config.max_num_queued_reqs

    def _lora(self, model: ServedModel) -> Any:
        try:
            return (self._leaving | self._models)[_key(model)]
        except KeyError:
            raise PermanentError(f"vLLM has no model {model.name}") from None

    def _tokens(self, messages: Sequence[ChatMessage]) -> list[int]:
        tokenizer = self._llm.get_tokenizer()
        tokens: list[int] = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return tokens

    async def _generate(self, tokens: list[int], params: Any, lora: Any = None, priority: int = 0) -> Any:
        """vLLM's final output for a prompt."""
        from vllm.inputs import tokens_input

        prompt, request_id = tokens_input(tokens), uuid.uuid4().hex
        outputs = self._llm.generate(prompt, params, request_id, lora_request=lora, priority=priority)
        async with self._translated():
            # Cancelled, by the caller or by the time limit, vLLM's generator aborts the request.
            async with asyncio.timeout(self.config.timeout_s):
                return [output async for output in outputs][-1]

    async def _added(self, model: ServedModel) -> Any:
        """The model's LoRARequest, loaded; None for the base model."""
        if model.adapter is None:
            return None
        if not (model.adapter / "adapter_config.json").is_file():
            raise ValueError(f"model {model.name}: {model.adapter} is no peft adapter folder")
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.exceptions import EngineDeadError

        self._last_lora_id += 1
        lora = LoRARequest(f"{model.name}.{self._last_lora_id}", self._last_lora_id, str(model.adapter))
        try:
            await self._llm.add_lora(lora)
        except EngineDeadError as exc:
            raise WorkerDiedError("vLLM's engine process has died") from exc
        except Exception as exc:
            # The child's exception comes as a bare Exception with its text.
            raise ValueError(f"model {model.name}: vLLM can't load {model.adapter}: {exc}") from exc
        return lora

    async def _remove(self, models: Mapping[_Key, Any]) -> None:
        for lora in models.values():
            if lora is not None:
                await self._llm.remove_lora(lora.lora_int_id)

    def _start(self) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        self._llm = AsyncLLM.from_engine_args(_engine_args(self.config))

    def _stop(self) -> None:
        # The thread keeps what it was last given: that must not be the AsyncLLM, which complains when it goes last.
        self._llm.shutdown(STOP_S)
        self._llm = None

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMServerError

        try:
            yield
        except TimeoutError as exc:
            raise RetryableError(f"vLLM: no answer within {self.config.timeout_s:g} s") from exc
        except GracefulHTTPError as exc:
            # Refused at admission: as many requests as it may hold.
            raise RetryableError("vLLM is full", BUSY_S) from exc
        except VLLMClientError as exc:
            raise PermanentError(f"vLLM rejects the request: {type(exc).__name__}") from exc
        except VLLMServerError as exc:
            if self._llm.errored:
                raise WorkerDiedError("vLLM's engine process has died") from exc
            raise RetryableError(f"vLLM: {type(exc).__name__}") from exc


def _key(model: ServedModel) -> _Key:
    return model.name, model.adapter


def generation(output: Any, model: str) -> Generation:
    """What a final RequestOutput says.

    Raises: RetryableError if vLLM gave the request up.
    """
    answer = output.outputs[0]
    if answer.finish_reason not in ("stop", "length"):
        raise RetryableError(f"vLLM gave the request up: {answer.finish_reason}")
    logprobs = [at[token].logprob for token, at in zip(answer.token_ids, answer.logprobs or (), strict=False)]
    return Generation(
        text=answer.text.strip(),
        finish_reason=answer.finish_reason,
        model=model,
        usage=Usage(
            prompt_tokens=len(output.prompt_token_ids),
            completion_tokens=len(answer.token_ids),
            cached_tokens=output.num_cached_tokens or 0,
        ),
        logprobs=summarised(logprobs),
    )


def check_platform(device: Literal["cpu", "cuda"]) -> None:
    """See that vLLM is here and runs on `device`: it would fail later with a riddle, or run elsewhere.

    Raises: ValueError naming the setting.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ValueError('tier1.engine is "vllm", but the package vllm is not installed (extra: vllm)')
    from vllm.platforms import current_platform

    if device == "cuda" and not current_platform.is_cuda():
        raise ValueError('tier1.engine is "vllm" and tier1.device "cuda", but vLLM finds no CUDA GPU here')
    if device == "cpu" and not current_platform.is_cpu():
        raise ValueError('tier1.engine is "vllm" and tier1.device "cpu", but this vLLM is not the one for the CPU')


def _set_environment() -> None:
    """What vLLM can only be told by the environment, before it is imported; a variable that is set stays as it is."""
    for name, value in (
        ("VLLM_NO_USAGE_STATS", "1"),  # else it reports to its makers
        ("HF_HUB_OFFLINE", "1"),  # the model is a folder; nothing is looked up elsewhere
        ("VLLM_LOGGING_LEVEL", "WARNING"),
        ("VLLM_WORKER_MULTIPROC_METHOD", "spawn"),  # a fork of a process with threads may hang
    ):
        os.environ.setdefault(name, value)


def _engine_args(config: VllmConfig) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.config import StructuredOutputsConfig

    cpu = config.device == "cpu"
    return AsyncEngineArgs(
        model=str(config.model),
        dtype=config.dtype,
        max_model_len=config.context_tokens,
        max_num_seqs=config.max_num_seqs,
        max_num_queued_reqs=config.max_num_queued_reqs,
        scheduling_policy="priority",
        enable_prefix_caching=True,
        gpu_memory_utilization=config.gpu_memory_utilization,
        kv_cache_memory_bytes=CPU_KV_CACHE_BYTES if cpu else None,
        # Compiling takes minutes on a CPU, and vLLM does not do it there together with adapters.
        enforce_eager=cpu,
        enable_lora=True,
        max_loras=MAX_LORAS,
        # A hot swap has the old ones and the new ones at once.
        max_cpu_loras=2 * MAX_LORAS,
        max_lora_rank=config.max_lora_rank,
        # A small model that was not taught JSON writes blanks until its answer is full.
        structured_outputs_config=StructuredOutputsConfig(backend="xgrammar", disable_any_whitespace=True),
    )


def _params(max_tokens: int, schema: Mapping[str, Any] | None) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return SamplingParams(
        temperature=0.0,
        max_tokens=max_tokens,
        logprobs=1,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=StructuredOutputsParams(json=dict(schema)) if schema is not None else None,
    )
