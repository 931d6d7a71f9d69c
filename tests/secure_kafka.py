"""A real broker that asks who you are: TLS, every SASL mechanism, client certificates, and an authoriser.

Three listeners: one in plain text for the test itself, which may do everything; SASL_SSL with PLAIN, SCRAM and
OAUTHBEARER; SSL that wants a client's certificate. Every user of USERS has the password `NAME-secret`, by PLAIN and by
SCRAM; whoever holds another certificate or token of ours has its name.
"""

import json
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from aiohttp import BasicAuth, web
from aiohttp.test_utils import TestServer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from streams.acls import CLIENTS, Acl
from streams.connection import connection
from streams.local.embedded_kafka import EmbeddedKafka
from streams.local.ports import free_ports
from streams.settings import KafkaSettings
from tests.certificates import Authority
from tests.kafka import kafka_settings

USERS = tuple(f"headgate-{client}" for client in CLIENTS)
TOKEN_LIFE_S = 300
_LOGINS = "org.apache.kafka.common.security"
_RESOURCES = {"topic": 2, "group": 3, "transactional-id": 5}
_OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Alter": 7, "Describe": 8, "DescribeConfigs": 10}
"""Codes of the protocol (KIP-140)."""


def password(user: str) -> str:
    return f"{user}-secret"


class SecureKafka(EmbeddedKafka):
    """The broker; `ours` signs what it trusts, `keys` its tokens."""

    def __init__(self, folder: Path) -> None:
        port, controller_port, self._sasl_port, self._ssl_port = free_ports(4)
        super().__init__(folder, port)
        self._controller_port = controller_port
        self.ours = Authority(folder / "certificates", "ours")
        self.keys = SigningKeys()
        self._certificate = self.ours.sign("broker")
        jwks = folder / "jwks.json"
        jwks.write_text(json.dumps({"keys": [self.keys.public]}))
        self._jwks = jwks.as_uri()
        self._options = (f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self._jwks}",)

    def tls(self, **more: Any) -> KafkaSettings:
        """Settings of the listener that wants a certificate."""
        return self._settings("SSL", self._ssl_port, more)

    def sasl(self, mechanism: str, **more: Any) -> KafkaSettings:
        """Settings of the listener that wants a password or a token."""
        return self._settings("SASL_SSL", self._sasl_port, {"sasl_mechanism": mechanism} | more)

    def user(self, name: str, mechanism: str = "SCRAM-SHA-512", **more: Any) -> KafkaSettings:
        """Settings of one of USERS."""
        return self.sasl(mechanism, sasl_username=name, sasl_password=password(name), **more)

    def _settings(self, protocol: str, port: int, more: dict[str, Any]) -> KafkaSettings:
        known = {"bootstrap_servers": f"127.0.0.1:{port}", "security_protocol": protocol, "ssl_ca_file": self.ours.path}
        return KafkaSettings.model_validate(known | more)

    async def allow(self, principal: str, acls: Iterable[Acl]) -> None:
        """Grant what `headgate topics acls` lists."""
        request = _CreateAcls(
            [
                (_RESOURCES[acl.resource], acl.name, 4 if acl.prefixed else 3, principal, "*", _OPERATIONS[op], 3)
                for acl in acls
                for op in acl.operations
            ]
        )
        async with requests(kafka_settings(self.bootstrap_servers)) as ask:
            answer = await ask(request)
        assert {code for code, _ in answer.creation_responses} == {0}, answer

    def _format(self, java: Sequence[str]) -> None:
        cluster_id = "H" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[:21]
        argv = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", "server.properties"]
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            for user in USERS:
                argv += ["--add-scram", f"{mechanism}=[name={user},password={password(user)},iterations=4096]"]
        subprocess.run(argv, cwd=self.folder, capture_output=True, check=True)

    def _properties(self) -> str:
        """A plain broker's, then what differs: of two values the later one counts."""
        listeners = f"PLAINTEXT://127.0.0.1:{self._port}"
        secure = f"SASL_SSL://127.0.0.1:{self._sasl_port},SSL://127.0.0.1:{self._ssl_port}"
        users = " ".join(f'user_{user}="{password(user)}"' for user in USERS)
        sasl = "listener.name.sasl_ssl"
        values = {
            "listeners": f"{listeners},{secure},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"{listeners},{secure}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
            # Nobody kills this one: a loaded machine is not to be taken for a crash.
            "broker.session.timeout.ms": 60_000,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._certificate,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.ours.path,
            "listener.name.ssl.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
            f"{sasl}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            f"{sasl}.plain.sasl.jaas.config": f"{_LOGINS}.plain.PlainLoginModule required {users};",
            f"{sasl}.scram-sha-256.sasl.jaas.config": f"{_LOGINS}.scram.ScramLoginModule required;",
            f"{sasl}.scram-sha-512.sasl.jaas.config": f"{_LOGINS}.scram.ScramLoginModule required;",
            f"{sasl}.oauthbearer.sasl.jaas.config": f"{_LOGINS}.oauthbearer.OAuthBearerLoginModule required;",
            f"{sasl}.oauthbearer.sasl.server.callback.handler.class": (
                f"{_LOGINS}.oauthbearer.OAuthBearerValidatorCallbackHandler"
            ),
            # Whose token has expired has to log in again.
            f"{sasl}.oauthbearer.connections.max.reauth.ms": 60_000,
            f"{sasl}.sasl.oauthbearer.jwks.endpoint.url": self._jwks,
            f"{sasl}.sasl.oauthbearer.expected.audience": "kafka",
        }
        return super()._properties() + "".join(f"{key}={value}\n" for key, value in values.items())


class _CreateAcls(CreateAclsRequest):
    """aiokafka's has room for one, and its admin client no method for it."""

    def __init__(self, creations: list[tuple[int, str, int, str, str, int, int]]) -> None:
        self._creations = creations

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._creations)


@asynccontextmanager
async def requests(settings: KafkaSettings) -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
    """Sends requests of the protocol as they are, under the settings' principal."""
    admin = AIOKafkaAdminClient(**connection(settings))
    await admin.start()
    try:
        yield admin._send_request
    finally:
        await admin.close()


class SigningKeys:
    """What signs tokens (RS256), and its public half as a JWK."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        numbers = self._key.public_key().public_numbers()
        self.public = {"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256"}
        self.public |= {"n": _number(numbers.n), "e": _number(numbers.e)}

    def token(self, subject: str, life_s: float) -> str:
        """A signed JWT."""
        now = int(time.time())
        claims = {"sub": subject, "aud": "kafka", "iat": now, "exp": now + life_s, "scope": "kafka"}
        signed = ".".join(_text(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "1"}, claims))
        return f"{signed}.{_text(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _number(value: int) -> str:
    return _text(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenEndpoint:
    """Gives every one of USERS a token for its password; `life_s` and `status` may be changed."""

    def __init__(self, keys: SigningKeys) -> None:
        self.keys = keys
        self.life_s: float = TOKEN_LIFE_S
        self.status = 200
        self.asked: list[dict[str, str]] = []
        """The forms that were sent, right or wrong."""

    async def _answer(self, request: web.Request) -> web.Response:
        form = cast("dict[str, str]", dict(await request.post()))
        self.asked.append(form)
        login = BasicAuth.decode(request.headers["Authorization"])
        if self.status != 200:
            return web.Response(status=self.status)
        if login.password != password(login.login) or form.get("grant_type") != "client_credentials":
            return web.json_response({"error": "invalid_client"}, status=401)
        token = self.keys.token(login.login, self.life_s)
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": self.life_s})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its address, while the block lasts."""
        application = web.Application()
        application.router.add_post("/token", self._answer)
        async with TestServer(application) as server:
            yield str(server.make_url("/token"))
