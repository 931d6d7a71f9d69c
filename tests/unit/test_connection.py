"""How clients connect: from one place, with settings that fit together, and a token that is renewed in time."""

import ast
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from streams import oauth, settings
from streams.connection import connection, refused
from streams.oauth import TokenError, TokenRefusedError, Tokens
from streams.settings import KafkaSettings, SettingsError
from tests.certificates import Authority
from tests.secure_kafka import SigningKeys, TokenEndpoint, password

ROOT = Path(__file__).parents[2]
CLIENTS = {"AIOKafkaConsumer", "AIOKafkaProducer", "AIOKafkaAdminClient"}
PASSWORD = {"sasl_username": "headgate", "sasl_password": "canary-7"}
TOKEN = {
    "oauth_token_url": "https://login.example/token",
    "oauth_client_id": "headgate",
    "oauth_client_secret": "canary-7",
}


def clients_in(source: str) -> list[ast.Call]:
    """The calls that build one of aiokafka's clients."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in CLIENTS]


def is_connected(call: ast.Call) -> bool:
    """Whether its arguments are `**connection(...)`, and it names no address of its own."""
    spread = [k.value for k in call.keywords if k.arg is None and isinstance(k.value, ast.Call)]
    by = [value.func.id for value in spread if isinstance(value.func, ast.Name)]
    return "connection" in by and "bootstrap_servers" not in {k.arg for k in call.keywords}


def test_every_client_is_told_how_to_connect_from_one_place() -> None:
    """A client of its own making would speak plain text to brokers that don't."""
    found = {path: clients_in(path.read_text("utf-8")) for path in (ROOT / "streams").rglob("*.py")}
    bare = [f"{path}:{call.lineno}" for path, calls in found.items() for call in calls if not is_connected(call)]
    assert sum(map(len, found.values())) > 10
    assert bare == []


def test_a_bare_client_would_be_found() -> None:
    """The test above can fail."""
    (bare,) = clients_in("AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)")
    (mixed,) = clients_in("AIOKafkaProducer(**connection(kafka), bootstrap_servers='x')")
    (right,) = clients_in("AIOKafkaProducer(**connection(kafka), acks='all')")
    assert [is_connected(call) for call in (bare, mixed, right)] == [False, False, True]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"security_protocol": "SASL_SSL"}, "sasl_mechanism is missing"),
        ({"sasl_mechanism": "PLAIN", **PASSWORD}, "sasl_mechanism has no effect with security_protocol PLAINTEXT"),
        ({"ssl_ca_file": "ca.pem"}, "ssl_ca_file has no effect with security_protocol PLAINTEXT"),
        ({"security_protocol": "SSL", **PASSWORD}, "sasl_username has no effect with security_protocol SSL"),
        ({"security_protocol": "SSL", "ssl_key_file": "key.pem"}, "ssl_certificate_file is missing"),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "headgate"},
            "sasl_password is missing",
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_password": "canary-7"},
            "sasl_username is missing",
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", **TOKEN, **PASSWORD},
            "sasl_username has no effect with security_protocol SASL_SSL and sasl_mechanism OAUTHBEARER",
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", **PASSWORD, "oauth_scope": "kafka"},
            "oauth_scope has no effect with security_protocol SASL_SSL and sasl_mechanism SCRAM-SHA-512",
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "oauth_client_id": "headgate"},
            "oauth_token_url is missing",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_do_not_fit_stop_the_start(
    given: dict[str, str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, and without a secret."""
    monkeypatch.chdir(tmp_path)
    for name, value in given.items():
        monkeypatch.setenv(f"HEADGATE_KAFKA__{name.upper()}", value)
    with pytest.raises(SettingsError) as caught:
        settings.load()
    assert str(caught.value) == f"wrong settings: kafka: kafka.{problem}"


def secured(**given: Any) -> KafkaSettings:
    return KafkaSettings.model_validate({"security_protocol": "SASL_SSL"} | given)


def test_plain_text_needs_nothing() -> None:
    """The default is a broker on this machine."""
    assert connection(KafkaSettings()) == {
        "bootstrap_servers": "127.0.0.1:9092",
        "security_protocol": "PLAINTEXT",
    }


def test_a_password_may_be_in_a_file_that_is_read_for_each_client(tmp_path: Path) -> None:
    """So that a new one needs no restart."""
    path = tmp_path / "password"
    path.write_text("first\n")
    told = secured(sasl_mechanism="SCRAM-SHA-512", sasl_username="headgate", sasl_password_file=path)
    assert connection(told)["sasl_plain_password"] == "first"
    path.write_text("second\n")
    assert connection(told)["sasl_plain_password"] == "second"
    path.unlink()
    with pytest.raises(SettingsError, match=r"^kafka\.sasl_password_file can't be read"):
        connection(told)


def test_certificates_are_checked_unless_told_otherwise(tmp_path: Path) -> None:
    """The name may be left out of it, who signed it may not."""
    ours = Authority(tmp_path, "ours")
    own = {"security_protocol": "SSL", "ssl_ca_file": ours.path, "ssl_certificate_file": ours.sign("headgate")}
    strict = connection(secured(**own))["ssl_context"]
    lax = connection(secured(**own, ssl_check_hostname=False))["ssl_context"]
    assert (strict.check_hostname, strict.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert (lax.check_hostname, lax.verify_mode) == (False, ssl.CERT_REQUIRED)


@pytest.mark.parametrize("name", ["ssl_ca_file", "ssl_certificate_file", "ssl_key_file"])
@pytest.mark.parametrize("contents", [None, "no certificate"])
def test_a_file_that_is_no_use_is_named(name: str, contents: str | None, tmp_path: Path) -> None:
    """One that isn't there, and one that holds something else."""
    ours = Authority(tmp_path, "ours")
    good = ours.sign("headgate")
    path = tmp_path / "bad.pem"
    if contents:
        path.write_text(contents)
    files = {"ssl_ca_file": ours.path, "ssl_certificate_file": good, "ssl_key_file": good} | {name: path}
    with pytest.raises(SettingsError, match=rf"kafka\.{name}.*bad\.pem"):
        connection(secured(security_protocol="SSL", **files))


def test_a_broker_that_is_away_says_nothing_of_the_settings() -> None:
    """It is waited for."""
    assert refused(ConnectionRefusedError("no"), KafkaSettings()) is None
    assert refused(KafkaConnectionError("closed"), KafkaSettings()) is None


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[TokenEndpoint, KafkaSettings]]:
    made = TokenEndpoint(SigningKeys())
    async with made.serving() as url:
        user = "headgate-router"
        login = {"oauth_client_id": user, "oauth_client_secret": password(user), "oauth_scope": "kafka"}
        yield made, secured(sasl_mechanism="OAUTHBEARER", oauth_token_url=url, **login)


async def test_a_token_is_kept_and_renewed_before_it_expires(endpoint: tuple[TokenEndpoint, KafkaSettings]) -> None:
    """At four fifths of its life."""
    server, told = endpoint
    server.life_s, clock = 100, Clock()
    tokens = Tokens(told, clock)
    first = await tokens.token()
    clock.now_s += 79
    assert await tokens.token() == first
    assert server.asked == [{"grant_type": "client_credentials", "scope": "kafka"}]
    clock.now_s += 2
    await tokens.token()
    assert len(server.asked) == 2


async def test_a_token_serves_while_no_other_can_be_had(endpoint: tuple[TokenEndpoint, KafkaSettings]) -> None:
    """Until it expires: an endpoint that is away for a while stops nobody."""
    server, told = endpoint
    server.life_s, clock = 100, Clock()
    tokens = Tokens(told, clock)
    first = await tokens.token()
    server.status, clock.now_s = 503, clock.now_s + 90
    assert await tokens.token() == first
    clock.now_s += 11
    with pytest.raises(TokenError, match="503"):
        await tokens.token()
    server.status = 200
    assert await tokens.token()


@pytest.mark.parametrize(
    ("wrong", "status", "named"),
    [
        ({"oauth_client_secret": "canary-7"}, 200, r"kafka\.oauth_client_secret.*401 invalid_client"),
        ({}, 404, r"kafka\.oauth_token_url: 404"),
        ({"oauth_token_url": "login.example"}, 200, r"kafka\.oauth_token_url: "),
        (
            {"oauth_client_secret": None, "oauth_client_secret_file": "/nowhere"},
            200,
            r"kafka\.oauth_client_secret_file",
        ),
    ],
)
async def test_what_the_token_endpoint_refuses_is_named(
    wrong: dict[str, Any], status: int, named: str, endpoint: tuple[TokenEndpoint, KafkaSettings]
) -> None:
    """And no secret is."""
    endpoint[0].status = status
    told = KafkaSettings.model_validate(
        {name: getattr(endpoint[1], name) for name in endpoint[1].model_fields_set} | wrong
    )
    with pytest.raises(TokenRefusedError, match=named) as caught:
        await Tokens(told).token()
    assert "canary-7" not in str(caught.value)


async def test_a_token_endpoint_that_is_away_may_come_back(endpoint: tuple[TokenEndpoint, KafkaSettings]) -> None:
    """That is no wrong setting."""
    told = endpoint[1].model_copy(update={"oauth_token_url": "http://127.0.0.1:1/token"})
    with pytest.raises(TokenError) as caught:
        await Tokens(told).token()
    assert refused(caught.value, told) is None


def test_all_clients_of_a_process_share_their_tokens() -> None:
    """Else each would ask for one of its own."""
    told = secured(sasl_mechanism="OAUTHBEARER", **TOKEN)
    assert connection(told)["sasl_oauth_token_provider"] is oauth.tokens(told)
    assert connection(told)["sasl_oauth_token_provider"] is connection(told)["sasl_oauth_token_provider"]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"security_protocol": "PLAINTEXT"}, "NoneType"),
        ({"security_protocol": "SSL"}, "SSLCredentials"),
        ({"sasl_mechanism": "SCRAM-SHA-256", **PASSWORD}, "SASLCredentials"),
        ({"sasl_mechanism": "OAUTHBEARER", **TOKEN}, "OAuthCredentials"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_scoreboard_s_clients_are_told_the_same(given: dict[str, Any], kind: str) -> None:
    """In Faust's words, which its driver turns back into aiokafka's."""
    from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

    from streams.scoreboard.application import credentials

    told = secured(**given)
    found = credentials(told)
    assert type(found).__name__ == kind
    back = {name: value for name, value in credentials_to_aiokafka_auth(found).items() if value is not None}
    wanted = connection(told)
    del wanted["bootstrap_servers"]
    assert back.keys() == wanted.keys()
    assert {n: v for n, v in back.items() if n != "ssl_context"} == {
        n: v for n, v in wanted.items() if n != "ssl_context"
    }
