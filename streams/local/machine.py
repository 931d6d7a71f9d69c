"""All of Headgate on one machine: broker, tier-1 server, tier-2 (recorded or real) and the stages.

What `headgate demo` and `headgate up` start; `up` adds `headgate certify`. The stages are processes of their
own and are joined by nothing but Kafka, exactly as in a cluster.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from streams import topics
from streams.local.embedded_kafka import EmbeddedKafka, EmbeddedKafkaError
from streams.local.ports import free_port
from streams.local.processes import Child, Processes, StepError
from streams.run import STAGES
from streams.settings import PREFIX, KafkaSettings, Settings

Say = Callable[[str], None]

RECORDING_KEY = "recording"
"""The recorded frontier wants a key as the real ones do, and takes any."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """Who answers on tier-2."""

    provider: str
    model: str
    base_url: str
    recorded: bool
    spend_limit_usd: float | None

    @property
    def key_name(self) -> str:
        """The environment's variable that holds a real provider's key."""
        return {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}[self.provider]

    @property
    def description(self) -> str:
        if self.recorded:
            return f"a recording, no provider; {self.model}'s price"
        return f"{self.provider} {self.model}, spend limit ${self.spend_limit_usd:.2f}"


@dataclass(frozen=True, slots=True)
class LocalRun:
    """What a local run consists of and where it can be reached."""

    kafka: KafkaSettings
    settings: Settings
    environment: dict[str, str]
    """What a stage's process is told; the settings above say the same."""
    frontier: Frontier
    processes: Processes
    folder: Path
    console: str | None
    """The scoreboard's address; None without the extra that it needs."""


def frontier(limit_usd: float) -> Frontier:
    """The real provider if its key is in the environment, the recording otherwise."""
    if os.environ.get("ANTHROPIC_API_KEY"):
        return Frontier("anthropic", "claude-sonnet-5-5", "https://api.anthropic.com", False, limit_usd)
    if os.environ.get("OPENAI_API_KEY"):
        return Frontier("openai", "gpt-6.1-sol", "https://api.openai.com", False, limit_usd)
    return Frontier("anthropic", "claude-sonnet-5-5", f"http://127.0.0.1:{free_port()}", True, None)


@asynccontextmanager
async def local_run(
    settings: Settings, company: Path, folder: Path, embedded: bool, spend_limit_usd: float, say: Say
) -> AsyncIterator[LocalRun]:
    """Start everything, yield, stop everything.

    `embedded` starts a broker of its own; otherwise the one in the settings is used.

    Raises: StepError naming the step that failed and what to do.
    """
    processes = Processes(folder / "logs")
    async with AsyncExitStack() as stack:
        kafka = await _broker(settings.kafka, folder, embedded, stack, say)
        stack.push_async_callback(asyncio.to_thread, processes.stop)
        await _topics(kafka, say)
        chosen = frontier(spend_limit_usd)
        tier1_url = f"http://127.0.0.1:{free_port()}/v1"
        environment = _environment(kafka, company, tier1_url, chosen)
        await _models(processes, company, tier1_url, chosen, settings, say)
        console = await _stages(processes, environment, settings.scoreboard.port, say)
        told = settings.model_copy(
            update={
                "kafka": kafka,
                "tier1": settings.tier1.model_copy(update={"base_url": tier1_url}),
                "tier2": settings.tier2.model_copy(
                    update={
                        "provider": chosen.provider,
                        "base_url": chosen.base_url,
                        "model": chosen.model,
                        "api_key": SecretStr(RECORDING_KEY if chosen.recorded else ""),
                    }
                ),
            }
        )
        yield LocalRun(kafka, told, environment, chosen, processes, folder, console)
        say("stopping")


async def _broker(kafka: KafkaSettings, folder: Path, embedded: bool, stack: AsyncExitStack, say: Say) -> KafkaSettings:
    if not embedded:
        say(f"Kafka       the broker at {kafka.bootstrap_servers}")
        return kafka
    if kafka.security_protocol != "PLAINTEXT":
        raise StepError(
            f"the broker that is started here is reached without a login, and kafka.security_protocol is "
            f"{kafka.security_protocol}: say --broker-from-settings, or leave it out"
        )
    started = time.monotonic()
    say("Kafka       starting 4.3.1 (the first time downloads 45 MB)")
    broker = EmbeddedKafka(folder / "kafka")
    try:
        # In a thread that is waited for even when we are interrupted: a broker half started must be stopped too.
        await asyncio.shield(asyncio.to_thread(broker.start))
    except EmbeddedKafkaError as exc:
        raise StepError(f"the broker did not start: {exc}") from exc
    finally:
        stack.push_async_callback(asyncio.to_thread, broker.stop)
    say(f"Kafka       ready in {time.monotonic() - started:.1f} s at {broker.bootstrap_servers}")
    return kafka.model_copy(update={"bootstrap_servers": broker.bootstrap_servers})


async def _topics(kafka: KafkaSettings, say: Say) -> None:
    try:
        made = await topics.apply(kafka)
    except topics.TopicsError as exc:
        raise StepError(f"the topics could not be made: {exc}") from exc
    say(f"topics      {len(made)}, every partition has a leader")


def _environment(kafka: KafkaSettings, company: Path, tier1_url: str, chosen: Frontier) -> dict[str, str]:
    """The stages' settings, as a container's environment would give them."""
    values = {
        "CONFIG": str(company / "headgate.toml"),
        "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        "KAFKA__PARTITIONS": str(kafka.partitions),
        "TIER1__BASE_URL": tier1_url,
        "TIER2__PROVIDER": chosen.provider,
        "TIER2__BASE_URL": chosen.base_url,
        "TIER2__MODEL": chosen.model,
        "TIER2__API_KEY": RECORDING_KEY if chosen.recorded else os.environ[chosen.key_name],
    }
    if chosen.spend_limit_usd is not None:
        # A run's broker is its own, and so is what was spent: of the periods that there are a month is most like a run.
        values["TIER2__SPEND__MONTH_USD"] = str(chosen.spend_limit_usd)
    return {PREFIX + name: value for name, value in values.items()}


async def _models(
    processes: Processes, company: Path, tier1_url: str, chosen: Frontier, settings: Settings, say: Say
) -> None:
    """Tier-1's server and, unless the real provider is used, the recorded frontier."""
    started = time.monotonic()
    processes.start(_tier1_server(company, tier1_url))
    waits = [processes.wait_ready("tier1-server")]
    if chosen.recorded:
        processes.start(_recorded_frontier(company, chosen.base_url))
        waits.append(processes.wait_ready("recorded-frontier"))
    await asyncio.gather(*waits)
    ready_s = time.monotonic() - started
    say(f"tier-1      SmolLM2-135M with its adapter on llama.cpp, ready in {ready_s:.1f} s")
    say(f"tier-2      {chosen.description}")


def _tier1_server(company: Path, url: str) -> Child:
    port = url.split(":")[2].split("/")[0]
    adapter = str(company / "tier1" / "adapter.gguf")
    argv = (sys.executable, "-m", "workers.tier1.local_server", "--port", port, "--adapter", adapter)
    return Child("tier1-server", argv, f"http://127.0.0.1:{port}/health", restart=True)


def _recorded_frontier(company: Path, url: str) -> Child:
    port = url.rsplit(":", 1)[1]
    argv = (sys.executable, "-m", "workers.tier2.recorded_frontier", "--port", port, "--company", str(company))
    return Child("recorded-frontier", argv, f"{url}/health", restart=True)


async def _stages(processes: Processes, environment: dict[str, str], console_port: int, say: Say) -> str | None:
    """The stages and, where it is installed, the scoreboard; returns the console's address."""
    started = time.monotonic()
    console_port = free_port(console_port)
    environment = environment | {PREFIX + "SCOREBOARD__PORT": str(console_port)}
    has_console = find_spec("faust") is not None
    names = (*STAGES, "scoreboard") if has_console else STAGES
    for name in names:
        own = {PREFIX + "KAFKA__GROUP_INSTANCE_ID": f"{name}-1"}
        processes.start(_headgate(name, ("run", name), environment | own))
    await asyncio.gather(*(processes.wait_ready(name) for name in names))
    say(f"stages      {', '.join(STAGES)}: ready in {time.monotonic() - started:.1f} s")
    console = f"http://127.0.0.1:{console_port}/" if has_console else None
    say(f"console     {console or 'none: the extra scoreboard is not installed'}")
    return console


async def start_certify(run: LocalRun, say: Say) -> None:
    """`headgate certify` beside the stages, after its first look. Raises: StepError as `Processes.wait_ready`."""
    started = time.monotonic()
    run.processes.start(_headgate("certify", ("certify",), run.environment))
    await run.processes.wait_ready("certify")
    say(f"certify     ready in {time.monotonic() - started:.1f} s")


def _headgate(name: str, command: tuple[str, ...], environment: dict[str, str]) -> Child:
    """A command that runs until it is stopped, and says on its health port when it is ready."""
    port = free_port()
    argv = (sys.executable, "-m", "streams.cli", *command)
    told = environment | {PREFIX + "HEALTH_PORT": str(port)}
    return Child(name, argv, f"http://127.0.0.1:{port}/readyz", told, restart=True)
