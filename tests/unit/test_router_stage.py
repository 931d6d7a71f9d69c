"""The router's stage without Kafka: its handler while models are replaced, and a shadow beside the model in force."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY

from schemas.codec import encode
from schemas.events import Event
from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import Routed, Ticket
from streams import router, router_models
from streams.policies import Given, load_policy
from streams.runtime.stage import Done, Origin, Record, Stage
from streams.settings import RouterSettings, Settings
from tests.records import a_ticket
from tests.toy_model import metadata, write_model
from workers.router.classifier import Classifier

LIMIT_S = 30.0


def named(*passages: str) -> dict[str, str]:
    """Metadata of a model that knows these two passages."""
    return metadata(passages=json.dumps(passages), max_tokens="60")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_models, "LOOK_S", 0.01)


@pytest.fixture
def configured(tmp_path: Path) -> Settings:
    """A toy model in force, under a policy that sends what it knows well to tier-1."""
    lenient = CategoryPolicy(p_ok_threshold=0.2, score_threshold=0.5)
    policy = Policy(scope="*", version="p1", default=lenient, least_in_scope=0.0, languages=("en",))
    (tmp_path / "policy.json").write_bytes(encode(policy))
    model = write_model(tmp_path / "model.onnx", named("one.refund", "one.light"))
    changes = {"policy": tmp_path / "policy.json", "router": RouterSettings(model=model, threads=2)}
    return Settings().model_copy(update=changes)


def with_shadow(configured: Settings, path: Path) -> Settings:
    return configured.model_copy(update={"router": configured.router.model_copy(update={"shadow_model": path})})


def opened(configured: Settings) -> AbstractAsyncContextManager[Stage[Ticket]]:
    return router.stage_under(Given(load_policy(configured.policy)), configured.router)


def records(bodies: Sequence[str], first: int = 0) -> list[Record[Ticket]]:
    return [
        Record(a_ticket(body, ticket_id=f"t{n}"), Origin("tickets", 0, n), time.time())
        for n, body in enumerate(bodies, first)
    ]


async def routed(stage: Stage[Ticket], batch: Sequence[Record[Ticket]]) -> list[tuple[Routed, Event]]:
    """What a batch became."""
    results = await stage.handler(batch)
    assert len(results) == len(batch)
    found = []
    for record, result in zip(batch, results, strict=True):
        assert isinstance(result, Done)
        (output,) = result.outputs
        assert isinstance(output.value, Routed)
        assert output.value.ticket is record.value
        assert output.topic.name == output.value.decision.tier
        found.append((output.value, result.event))
    return found


async def turns() -> AsyncIterator[None]:
    """Turns of the loop, until the deadline."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        yield
        await asyncio.sleep(0)
    pytest.fail(f"not within {LIMIT_S:.0f} s")


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


BODIES = ["refund", "red light", "router please", "the refund of my invoice"]


async def test_the_event_says_which_model_decided_and_what_it_read(configured: Settings) -> None:
    """Version, scores and the characters that were cut, so that a replay knows what the router knew."""
    version = Classifier(configured.router.model).version
    body = "the refund " * 100
    async with opened(configured) as stage:
        ((short, of_short), (_, of_long)) = await routed(stage, records(["the refund", body]))
    assert of_short.model == short.decision.model_version == version
    assert (of_short.cut_chars, of_short.in_scope) == (0, short.decision.in_scope)
    assert of_short.p_ok_tier2 == short.decision.p_ok_tier2 is not None
    assert 0 < of_long.cut_chars < len(body)
    assert (of_short.shadow_version, of_short.shadow_p_ok, of_short.shadow_tier) == ("", None, "")


async def test_every_ticket_is_scored_once_and_each_batch_by_one_version(configured: Settings) -> None:
    """Batches at work all the while, two at a time, and the file replaced again and again."""
    path = configured.router.model
    names: dict[str, str] = {Classifier(path).version: "one"}
    done: list[int] = []
    seen: list[str] = []

    async with opened(configured) as stage:

        async def work(first: int) -> None:
            batch = records(BODIES * 4, first)
            found = await routed(stage, batch)
            (version,) = {event.model for _, event in found}
            for value, event in found:
                assert (value.decision.model_version, value.decision.category) == (version, names[version])
                done.append(int(event.ticket_id.removeprefix("t")))
            seen.append(version)

        first = 0
        for kind in ("two", "three", "four"):
            write_model(path.with_name("next"), named(f"{kind}.refund", f"{kind}.light"))
            version = Classifier(path.with_name("next")).version
            names[version] = kind
            path.with_name("next").replace(path)
            async for _ in turns():
                await asyncio.gather(work(first), work(first + 16))
                first += 32
                if version in seen:
                    break
    assert sorted(done) == list(range(first))
    assert list(dict.fromkeys(names[version] for version in seen)) in (
        ["one", "two", "three", "four"],
        ["two", "three", "four"],
    )
    # Not of seen[-1]: of two batches side by side the older model's may be done last.
    assert metric("headgate_router_model_info", role="active", version=version) == 1
    assert metric("headgate_router_model_info", role="active", version=seen[0]) is None


async def test_a_file_that_cannot_be_used_leaves_the_old_model_in_force(configured: Settings) -> None:
    """Said once, as an error with its consequence, and in the metrics until a usable file is there."""
    path = configured.router.model
    refused = "headgate_router_model_refused"
    with structlog.testing.capture_logs() as logs:
        async with opened(configured) as stage:
            ((_, before),) = await routed(stage, records(["refund"]))
            assert metric(refused, role="active") == 0
            path.with_name("half").write_bytes(path.read_bytes()[:1000])
            path.with_name("half").replace(path)
            async for _ in turns():
                ((_, event),) = await routed(stage, records(["refund"]))
                assert event.model == before.model
                if metric(refused, role="active"):
                    break
            write_model(path, named("two.refund", "two.light"))
            async for _ in turns():
                if not metric(refused, role="active"):
                    break
            ((_, after),) = await routed(stage, records(["refund"]))
    assert after.model != before.model
    told = [log for log in logs if log["event"].startswith("router_model")]
    assert [log["event"] for log in told] == ["router_model_refused", "router_model_swapped"]
    assert "not a graph" in told[0]["error"]
    assert before.model in told[0]["consequence"]


async def test_a_shadow_scores_the_same_tickets_and_decides_nothing(configured: Settings, tmp_path: Path) -> None:
    """A cold start beside a model with labels: the event holds what it would have done with the ticket."""
    shadow = write_model(tmp_path / "candidate.onnx", named("x.a", "x.b") | {"labels": "0"})
    async with opened(configured) as stage:
        alone = await routed(stage, records(BODIES))
    async with opened(with_shadow(configured, shadow)) as stage:
        both = await routed(stage, records(BODIES))
    for (value, event), (before, _) in zip(both, alone, strict=True):
        decision = before.decision
        assert (value.decision.tier, value.decision.reason, value.decision.p_ok) == (
            decision.tier,
            decision.reason,
            decision.p_ok,
        )
        assert event.model == decision.model_version != event.shadow_version
        assert event.shadow_version == Classifier(shadow).version
        assert (event.shadow_p_ok, event.shadow_tier) == (pytest.approx(value.decision.p_ok), "tier2")
    assert {value.decision.tier for value, _ in both} == {"tier1", "tier2"}


async def test_a_shadow_that_fails_hurts_no_ticket(
    configured: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged by its class, since its text may quote a ticket, and the events go without it."""
    shadow = write_model(tmp_path / "candidate.onnx", named("x.a", "x.b"))
    version = Classifier(shadow).version
    classify = Classifier.classify

    def failing(self: Classifier, texts: Any) -> Any:
        if self.version == version:
            raise RuntimeError(f"can't read {texts}")
        return classify(self, texts)

    async with opened(with_shadow(configured, shadow)) as stage:
        monkeypatch.setattr(Classifier, "classify", failing)
        with structlog.testing.capture_logs() as logs:
            found = await routed(stage, records(BODIES))
    assert [event.shadow_version for _, event in found] == [""] * len(BODIES)
    (log,) = [log for log in logs if log["event"] == "router_shadow_failed"]
    assert log["error"] == "RuntimeError"
    assert "refund" not in str(log)


async def test_a_shadow_that_cannot_be_loaded_names_its_setting(configured: Settings, tmp_path: Path) -> None:
    """At start: a shadow that silently isn't there would be looked for in the events."""
    with pytest.raises(ValueError, match=r"router\.shadow_model can't be used: .*nowhere\.onnx"):
        async with opened(with_shadow(configured, tmp_path / "nowhere.onnx")):
            pytest.fail("it started")


async def test_a_shadow_is_replaced_by_itself(configured: Settings, tmp_path: Path) -> None:
    """The model in force stays."""
    shadow = write_model(tmp_path / "candidate.onnx", named("x.a", "x.b"))
    async with opened(with_shadow(configured, shadow)) as stage:
        ((_, before),) = await routed(stage, records(["refund"]))
        write_model(shadow, named("y.a", "y.b"))
        async for _ in turns():
            ((_, event),) = await routed(stage, records(["refund"]))
            assert event.model == before.model
            if event.shadow_version != before.shadow_version:
                break
