"""Whether traces are collected, as the standard variables say; what can't be followed stops the start."""

import builtins
import os
from collections.abc import Mapping
from typing import Any

import pytest

from streams.settings import SettingsError
from streams.telemetry import collected, is_collected
from tests.collector import Collector
from tests.dispatching import Worker, processing, worked_off

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine that runs the tests collects."""
    for name in [n for n in os.environ if n.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/v1/traces"}, True),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_an_endpoint_turns_traces_on(environment: Mapping[str, str], expected: bool) -> None:
    """And nothing else does."""
    assert is_collected(environment) is expected


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"),
    ],
)
def test_what_cant_be_followed_is_named(environment: Mapping[str, str], named: str) -> None:
    """Rather than lose every trace in silence."""
    with pytest.raises(SettingsError, match=f"^{named} is "):
        is_collected(environment)


async def test_without_an_endpoint_nothing_is_imported_or_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core runs without the extra."""
    monkeypatch.setattr(builtins, "__import__", refusing("opentelemetry"))
    async with collected("router") as spans:
        assert spans is None


async def test_an_endpoint_without_the_extra_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setenv(*next(iter(ENDPOINT.items())))
    monkeypatch.setattr(builtins, "__import__", refusing("opentelemetry"))
    with pytest.raises(SettingsError, match="the extra `telemetry` is not installed"):
        await collected("router").__aenter__()


def refusing(package: str) -> Any:
    """An import that finds everything but this package."""
    found = builtins.__import__

    def find(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found(name, *args, **kwargs)

    return find


@pytest.mark.parametrize(
    ("environment", "service"),
    [
        ({}, "headgate-router"),
        ({"OTEL_SERVICE_NAME": "ours"}, "ours"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs"}, "theirs"),
    ],
)
async def test_the_collector_gets_the_spans_by_the_end(
    environment: Mapping[str, str], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop sends what is still here; the service's name is the environment's, if it has one."""
    collector, worker = Collector(), Worker()
    async with collector.serving() as address:
        for name, value in {**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": address}.items():
            monkeypatch.setenv(name, value)
        async with collected("router") as spans, processing(worker, spans=spans) as process:
            delivery = process.names(process.open(), "a")
            await worked_off(worker, lambda: bool(delivery.commits))
        assert [span.name for span in collector.spans] == ["process tickets"]
    assert collector.services == {service}
