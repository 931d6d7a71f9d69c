"""A broker that asks who you are, with an authoriser that allows what `headgate topics acls` lists: every client does
its work there and nothing else, and a wrong login ends a start with the setting's name."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestServer
from aiokafka import AIOKafkaConsumer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from pydantic import SecretStr
from rich.console import Console

from schemas.codec import encode
from schemas.events import Event
from schemas.labels import Feedback
from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import Ticket, TicketId
from schemas.topics import BACKFILL, EVENTS, EVERY_STAGE, TICKETS, Client, all_names
from streams import audits, certify, checker, feedback, judge, learn_topics, publish, router, settings, tier1, tier2
from streams import topics as topic_admin
from streams.acls import CLIENTS, acls
from streams.connection import check, connection
from streams.dead_letters import print_list
from streams.letters import Filters
from streams.policy_records import publish_policy
from streams.read import records
from streams.requeue import requeue
from streams.runtime.clock import utc_now
from streams.runtime.loop import StageLoop
from streams.runtime.stage import Done, Stage, singly
from streams.settings import KafkaSettings, Settings, SettingsError
from tests.certificates import Authority
from tests.fakes import FakeChatServer
from tests.fernway import FERNWAY, fernway
from tests.kafka import committed_records, kafka_settings, until, write, write_tickets
from tests.scoreboard import Scoreboard
from tests.secure_kafka import SecureKafka, TokenEndpoint, password, requests
from workers.learning.company import as_ticket
from workers.tier2.recorded_frontier import application
from workers.tier2.recording import Recordings

pytestmark = pytest.mark.integration

PREFIX = "own-"
TOPIC_REFUSED, GROUP_REFUSED, ID_REFUSED = 29, 30, 53
"""Kafka's error codes."""


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """With the ACLs that are printed for PREFIX, and the topics that the operators made."""
    broker = SecureKafka(tmp_path_factory.mktemp("secure"))

    async def prepare() -> None:
        for client in CLIENTS:
            await broker.allow(f"User:headgate-{client}", acls(client, PREFIX))
        await topic_admin.apply(of(broker, "operators"))

    broker.start()
    try:
        asyncio.run(prepare())
        yield broker
    finally:
        broker.stop()


def of(broker: SecureKafka, client: Client) -> KafkaSettings:
    """A client's settings, logging in by SCRAM."""
    return broker.user(f"headgate-{client}", topic_prefix=PREFIX, partitions=2, drain_s=5.0)


@pytest.fixture
async def endpoint(secure: SecureKafka) -> AsyncIterator[tuple[TokenEndpoint, str]]:
    made = TokenEndpoint(secure.keys)
    async with made.serving() as url:
        yield made, url


def by(way: str, secure: SecureKafka, token_url: str) -> KafkaSettings:
    """The helpdesks' settings, logging in by one way or another."""
    user = "headgate-helpdesks"
    match way:
        case "mTLS":
            return secure.tls(ssl_certificate_file=secure.ours.sign(user), topic_prefix=PREFIX)
        case "OAUTHBEARER":
            client = {"oauth_client_id": user, "oauth_client_secret": password(user)}
            return secure.sasl(way, oauth_token_url=token_url, oauth_scope="kafka", topic_prefix=PREFIX, **client)
        case _:
            return secure.user(user, way, topic_prefix=PREFIX)


@pytest.mark.parametrize("way", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "mTLS"])
async def test_a_client_logs_in_by(way: str, secure: SecureKafka, endpoint: tuple[TokenEndpoint, str]) -> None:
    """A producer, a consumer and an admin client each, and as the principal that it is: helpdesks may do just this."""
    own = by(way, secure, endpoint[1])
    assert await check(own)
    async with publish.producer(own) as producer:
        sent = await publish.publish(producer, own, Ticket(ticket_id=TicketId(way), body="Where is my router?"))
        assert await sent
    assert await topic_admin.partition_counts(own, [f"{PREFIX}answers"]) == {f"{PREFIX}answers": 2}
    reading = {"group_id": f"{PREFIX}helpdesk-{way}", "auto_offset_reset": "earliest"}
    async with AIOKafkaConsumer(f"{PREFIX}answers", **connection(own), **reading) as consumer:
        await consumer.getmany(timeout_ms=100)
        assert {p.topic for p in consumer.assignment()} == {f"{PREFIX}answers"}
    assert [form["scope"] for form in endpoint[0].asked] == ["kafka"] * (way == "OAUTHBEARER"), "one token for all"


async def test_a_token_that_expires_holds_up_nobody(secure: SecureKafka, endpoint: tuple[TokenEndpoint, str]) -> None:
    """The broker ends connections whose token has expired; the stage logs in with the next one, and loses nothing."""
    tokens, url = endpoint
    tokens.life_s = 2
    login = {"oauth_client_id": "headgate-router", "oauth_client_secret": password("headgate-router")}
    own = secure.sasl("OAUTHBEARER", oauth_token_url=url, topic_prefix=PREFIX, drain_s=5.0, **login)
    ids: list[str] = []
    async with running((toy_router(), own)):
        while len(tokens.asked) < 4:
            ids.append(f"expiring-{len(ids)}")
            await write_tickets(secure.bootstrap_servers, PREFIX, [ids[-1]])
            await until_events(secure, {ids[-1]})
    counted = await event_ids(secure)
    assert [counted.count(ticket_id) for ticket_id in ids] == [1] * len(ids)


async def test_the_slower_delivery_needs_no_more_rights(secure: SecureKafka) -> None:
    """At least once has idempotent producers without a transactional.id."""
    own = of(secure, "router").model_copy(update={"delivery": "at_least_once"})
    async with running((toy_router(), own)):
        await write_tickets(secure.bootstrap_servers, PREFIX, ["at-least-once"])
        await until_events(secure, {"at-least-once"})


async def test_a_stage_goes_on_once_it_is_allowed_to(secure: SecureKafka, capsys: pytest.CaptureFixture[str]) -> None:
    """Before, it says what it may not do, and keeps trying."""
    own = of(secure, "router").model_copy(update={"topic_prefix": "late-"})
    everything = kafka_settings(secure.bootstrap_servers, "late-", partitions=1)
    await topic_admin.apply(everything)
    await write_tickets(secure.bootstrap_servers, "late-", ["t1"])
    said = ""

    def is_refused() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "AuthorizationFailed" in said

    async with running((toy_router(), own)):
        await until(is_refused)
        assert "late-" in said
        await secure.allow("User:headgate-router", acls("router", "late-"))
        assert await committed_records(secure.bootstrap_servers, "late-events", 1)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"sasl_password": SecretStr("wrong")}, r"kafka\.sasl_username, kafka\.sasl_password: refused"),
        ({"sasl_mechanism": "PLAIN", "sasl_password": SecretStr("wrong")}, r"kafka\.sasl_password: refused"),
        ({"sasl_username": "nobody"}, r"kafka\.sasl_username, "),
        ({"ssl_ca_file": None}, r"kafka\.ssl_ca_file: .*not trusted"),
        ({"bootstrap_servers": "localhost"}, r"kafka\.ssl_check_hostname: .*localhost"),
        ({"bootstrap_servers": "plain"}, r"kafka\.security_protocol: nobody logs in there"),
        ({"bootstrap_servers": "certificates", "security_protocol": "SSL"}, r"kafka\.ssl_certificate_file: "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_what_the_broker_refuses_is_named(secure: SecureKafka, wrong: dict[str, Any], named: str) -> None:
    """One setting is wrong, and the error says which; no secret is in it."""
    own = of(secure, "router")
    port = own.bootstrap_servers.rpartition(":")[2]
    places = {"localhost": f"localhost:{port}", "certificates": secure.tls().bootstrap_servers}
    places["plain"] = secure.bootstrap_servers
    if place := wrong.get("bootstrap_servers"):
        wrong = wrong | {"bootstrap_servers": places[place]}
        wrong |= {"security_protocol": "SASL_PLAINTEXT"} if place == "plain" else {}
    if wrong.get("security_protocol") == "SSL":
        wrong |= {"sasl_mechanism": None}
    with pytest.raises(SettingsError, match=named) as caught:
        await check(own.model_copy(update=wrong))
    assert "wrong (" not in str(caught.value)
    assert password("headgate-router") not in str(caught.value)


async def test_a_certificate_of_another_authority_is_refused(secure: SecureKafka, tmp_path: Path) -> None:
    """The broker's of ours, and ours of the broker."""
    others = Authority(tmp_path, "others")
    with pytest.raises(SettingsError, match=r"kafka\.ssl_ca_file"):
        await check(of(secure, "router").model_copy(update={"ssl_ca_file": others.path}))
    with pytest.raises(SettingsError, match=r"kafka\.ssl_certificate_file: the broker refuses"):
        await check(secure.tls(ssl_certificate_file=others.sign("headgate-router")))


async def test_a_wrong_client_secret_is_named(secure: SecureKafka, endpoint: tuple[TokenEndpoint, str]) -> None:
    """Refused by the token endpoint, not by the broker."""
    login = {"oauth_client_id": "headgate-router", "oauth_client_secret": "wrong"}
    with pytest.raises(SettingsError, match=r"kafka\.oauth_client_secret.*invalid_client"):
        await check(secure.sasl("OAUTHBEARER", oauth_token_url=endpoint[1], **login))


async def test_a_process_that_is_refused_ends(secure: SecureKafka, tmp_path: Path) -> None:
    """With exit code 2 and the setting's name, and without the secret: a stage, and a command."""
    own = of(secure, "router").model_copy(update={"sasl_password": SecretStr("mistyped")})
    environment = {**os.environ, **as_environment(own), "PYTHONPATH": str(Path(__file__).parents[2])}
    commands = (["run", "router"], ["topics", "show"])
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "streams.cli", *command), env=environment, cwd=tmp_path, stdout=PIPE, stderr=STDOUT
        )
        for command in commands
    ]
    for process in processes:
        said, _ = await asyncio.wait_for(process.communicate(), 90)
        found = process.returncode, b"kafka.sasl_password" in said, b"mistyped" in said
        assert found == (2, True, False), said.decode()


def as_environment(kafka: KafkaSettings) -> dict[str, str]:
    """The settings that are not the defaults, as variables."""
    told = {name: getattr(kafka, name) for name in kafka.model_fields_set}
    shown = {n: v.get_secret_value() if isinstance(v, SecretStr) else str(v) for n, v in told.items()}
    return {f"HEADGATE_KAFKA__{name.upper()}": value for name, value in shown.items()}


@asynccontextmanager
async def running(*stages: tuple[Stage[Any], KafkaSettings]) -> AsyncIterator[None]:
    """Stages at work, each with settings of its own; stopped in order when the block ends."""
    loops = [StageLoop(stage, kafka) for stage, kafka in stages]
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        yield
    finally:
        for loop in loops:
            loop.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), 40)


def toy_router() -> Stage[Ticket]:
    """Takes tickets in, and sends them nowhere."""

    async def take(record: Any) -> Done:
        return Done((), a_routing(record.value.ticket_id, f"router/{record.origin}"))

    return Stage("router", TICKETS, Ticket, singly(take), batch_size=1)


def a_routing(ticket_id: str, event_id: str) -> Event:
    return Event(
        event_id=event_id, at=utc_now(), stage="router", outcome="routed", ticket_id=TicketId(ticket_id), tier="tier1"
    )


async def event_ids(secure: SecureKafka, stage: str = "router") -> list[str]:
    """The tickets that have an event of a stage."""
    found: list[str] = []
    async for event, _ in records(kafka_settings(secure.bootstrap_servers, PREFIX), Event, EVENTS):
        found += [event.ticket_id] * (event.stage == stage)
    return found


async def until_events(secure: SecureKafka, ids: set[str], stage: str = "router") -> None:
    async def are_there() -> bool:
        return ids <= set(await event_ids(secure, stage))

    await until(are_there, limit_s=60)


@pytest.fixture
async def company(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Settings]:
    """Fernway with a fake tier-1 and a recorded frontier; every ticket is audited."""
    if not (FERNWAY / "router" / "model.onnx").is_file():
        pytest.skip("the router's model is not built: make learn")
    monkeypatch.setenv("HEADGATE_CONFIG", str(FERNWAY / "headgate.toml"))
    loaded = settings.load()
    lenient = CategoryPolicy(p_ok_threshold=0.0, score_threshold=0.0, audit_share=1.0)
    (tmp_path / "policy.json").write_bytes(
        encode(Policy(scope="*", version="test", default=lenient, least_in_scope=0.0))
    )
    recordings = Recordings(fernway().examples)
    async with (
        FakeChatServer("It takes 2 business days.").serving() as engine,
        TestServer(application(recordings, latency_scale=0.0, requests_per_minute=None)) as frontier,
    ):
        asked = {"base_url": str(frontier.make_url("/")), "api_key": SecretStr("recorded"), "deadline_s": 10.0}
        yield loaded.model_copy(
            update={
                "policy": tmp_path / "policy.json",
                "tier1": loaded.tier1.model_copy(update={"base_url": engine}),
                "tier2": loaded.tier2.model_copy(update=asked),
                "judge": loaded.judge.model_copy(update=asked),
            }
        )


def as_client(company: Settings, secure: SecureKafka, client: Client) -> Settings:
    return company.model_copy(update={"kafka": of(secure, client)})


async def test_every_client_does_its_work(secure: SecureKafka, company: Settings, tmp_path: Path) -> None:
    """Tickets through all stages, answered, handed over, judged, buried and sent again; then the commands and the
    scoreboard. Each under a principal that may do what is printed for it."""
    helpdesks = of(secure, "helpdesks")
    examples = [e for e in fernway().split("test") if e.kind == "routine" and e.language == "en"][:3]
    live, slow, upwards = [as_ticket(e) for e in examples]
    upwards = msgspec.structs.replace(upwards, metadata={"tier": "tier2"})
    unknown = Ticket(ticket_id=TicketId("unknown"), body="A question never recorded", metadata={"tier": "tier2"})
    async with AsyncExitStack() as stack:
        modules: dict[Client, Any] = {
            "router": router,
            "tier1": tier1,
            "tier2": tier2,
            "checker": checker,
            "judge": judge,
        }
        built = [
            (await stack.enter_async_context(module.stage(as_client(company, secure, name))), of(secure, name))
            for name, module in modules.items()
        ]
        async with publish.producer(helpdesks) as producer:
            for ticket in (live, upwards, unknown):
                await (await publish.publish(producer, helpdesks, ticket))
        await write(secure.bootstrap_servers, f"{PREFIX}tickets{BACKFILL}", [(slow.ticket_id.encode(), encode(slow))])
        await write(secure.bootstrap_servers, f"{PREFIX}tickets", [(b"poison", b"no ticket")])
        async with running(*built):
            await until_events(secure, {live.ticket_id, slow.ticket_id}, "judge")
            await until_events(secure, {"unknown"}, "tier2")
            await until_events(secure, {"poison"})
    async with AIOKafkaConsumer(
        f"{PREFIX}answers",
        f"{PREFIX}handoffs",
        **connection(helpdesks),
        group_id=f"{PREFIX}helpdesk",
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    ) as consumer:
        left = {live.ticket_id, slow.ticket_id, upwards.ticket_id, unknown.ticket_id}
        while left:
            left -= {(await asyncio.wait_for(consumer.getone(), 30)).key.decode()}
    complaint = Feedback(ticket_id=live.ticket_id, tenant=live.tenant, at=utc_now(), rating=1)
    async with publish.producer(helpdesks) as producer:
        await producer.send_and_wait(f"{PREFIX}feedback", encode(complaint), key=complaint.ticket_id.encode())
    await commands(secure, company, tmp_path)


async def commands(secure: SecureKafka, company: Settings, folder: Path) -> None:
    """What people and `headgate certify` run."""
    console, operators = Console(quiet=True), of(secure, "operators")
    assert await topic_admin.show(operators)
    assert await feedback.label_feedback(operators, False, console) == 1
    await audits.print_status(operators, console)
    await print_list(operators, Filters(), False, False, console)
    await requeue(operators, [], Filters(), False, console)
    start = msgspec.json.decode(company.policy.read_bytes(), type=Policy)
    await publish_policy(operators, start, start, None)
    await certify.run(as_client(company, secure, "certify"), True, False, console)
    await certify.show(as_client(company, secure, "operators"), console)
    made = await learn_topics.make("thresholds", as_client(company, secure, "learning"), folder / "set", "test")
    assert made.files


async def test_the_scoreboard_sees_all_that_it_shows(secure: SecureKafka, tmp_path: Path) -> None:
    """Faust's clients log in as the others do, and its pages read what they need."""
    own = of(secure, "scoreboard")
    environment = {name.removeprefix("HEADGATE_"): value for name, value in as_environment(own).items()}
    servers = environment.pop("KAFKA__BOOTSTRAP_SERVERS")
    policy = Policy(scope="*", version="test", default=CategoryPolicy(p_ok_threshold=0.0, score_threshold=0.0))
    scoreboard = Scoreboard(tmp_path, servers, PREFIX, policy, **environment)
    try:
        await write(secure.bootstrap_servers, f"{PREFIX}events", [(b"seen", encode(a_routing("seen", "router/seen")))])
        assert (await scoreboard.shows(lambda summary: summary.total.volume > 0)).total.volume
        for page in ("backlog", "spend", "policy"):
            assert (await scoreboard.get(f"/api/{page}")).status_code == 200, page
    finally:
        scoreboard.kill()
        print(scoreboard.log[-5_000:])


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_does_nothing_else(client: Client, secure: SecureKafka) -> None:
    """On each topic the broker lets it read and write what is listed for it, and refuses the rest; so with groups and
    transactional.ids."""
    allowed = acls(client, PREFIX)
    topics = list(all_names(PREFIX))
    async with requests(of(secure, client)) as ask:
        batch = BatchBuilder(1_000_000, 0)
        batch.append(timestamp=None, key=b"k", value=b"v")
        batch.close()
        # A checksum that is wrong: whoever may write is told that, and writes nothing.
        data = bytearray(batch._build())
        data[-1] ^= 1
        produced = await ask(ProduceRequest(None, -1, 5000, [(name, [(0, bytes(data))]) for name in topics]))
        fetched = await ask(FetchRequest(0, 0, 1, 0, [(name, [(0, 0, 1)]) for name in topics]))
        writes = {name for name, parts in produced.topics if parts[0][1] != TOPIC_REFUSED}
        reads = {name for name, parts in fetched.topics if parts[0][1] != TOPIC_REFUSED}
        groups, ids = set(), set()
        for other in EVERY_STAGE:
            group = f"{PREFIX}headgate-{other}"
            if (await ask(HeartbeatRequest(group, 1, "nobody"))).error_code != GROUP_REFUSED:
                groups.add(group)
            if (await ask(InitProducerIdRequest(f"{group}-tickets-99", 10_000))).error_code != ID_REFUSED:
                ids.add(f"{group}-")
    assert (len(produced.topics), len(fetched.topics)) == (len(topics), len(topics))
    granted = {(acl.name, operation) for acl in allowed for operation in acl.operations}
    assert writes == {name for name in topics if (name, "Write") in granted}
    assert reads == {name for name in topics if (name, "Read") in granted}
    assert groups == ({f"{PREFIX}headgate-{client}"} if client in EVERY_STAGE else set())
    assert ids == ({f"{PREFIX}headgate-{client}-"} if client in EVERY_STAGE else set())
