"""How every Kafka client connects: one place that turns the settings into a client's arguments.

What the settings are wrong about shows when a broker refuses; aiokafka's clients then say only that they found no
broker, and try again. `check` asks once, and says which setting it is.
"""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from streams.oauth import TokenRefusedError, tokens
from streams.settings import KafkaSettings, SettingsError, secret

CHECK_LIMIT_MS = 10_000

MISMATCHED_NAME = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """The arguments of an aiokafka client that say where the brokers are and how to log in there. Files are read anew
    for each client, so that what is renewed before it expires needs no restart.

    Raises: SettingsError naming a file that can't be used.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = _ssl_context(settings)
    if settings.sasl_mechanism is not None:
        arguments["sasl_mechanism"] = settings.sasl_mechanism
    if settings.sasl_mechanism == "OAUTHBEARER":
        arguments["sasl_oauth_token_provider"] = tokens(settings)
    elif settings.sasl_mechanism is not None:
        arguments["sasl_plain_username"] = settings.sasl_username
        arguments["sasl_plain_password"] = secret(
            "kafka.sasl_password", settings.sasl_password, settings.sasl_password_file
        )
    return arguments


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_file)
    except OSError as exc:
        raise SettingsError(_unusable("ssl_ca_file", settings.ssl_ca_file, exc)) from exc
    context.check_hostname = settings.ssl_check_hostname
    if settings.ssl_certificate_file is not None:
        try:
            # Without a password OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(settings.ssl_certificate_file, settings.ssl_key_file, password="")
        except OSError as exc:
            files = f"{settings.ssl_certificate_file}, {settings.ssl_key_file or 'with its key'}"
            raise SettingsError(_unusable("ssl_certificate_file or kafka.ssl_key_file", files, exc)) from exc
    return context


def _unusable(name: str, what: Path | str | None, exc: OSError) -> str:
    return f"kafka.{name}: {what} can't be used: {exc.strerror or type(exc).__name__}"


async def check(settings: KafkaSettings) -> bool:
    """Connect to a broker once and log in, before anything depends on it; False if none answers, which proves nothing:
    whoever needs them waits for them.

    Raises: SettingsError naming the setting that the broker refuses.
    """
    arguments = connection(settings)
    for host, port, _ in collect_hosts(arguments.pop("bootstrap_servers")):
        try:
            client = await create_conn(host, port, request_timeout_ms=CHECK_LIMIT_MS, **arguments)
        except (KafkaError, OSError, TimeoutError) as exc:
            if why := refused(exc, settings):
                raise SettingsError(f"{why} (Kafka at {host}:{port})") from exc
        else:
            await client.close()
            return True
    return False


def refused(exc: BaseException, settings: KafkaSettings) -> str | None:
    """Which setting a failed connection contradicts, and how; None if it says nothing about the settings."""
    for error in _causes(exc):
        match error:
            case TokenRefusedError():
                return str(error)
            case SaslAuthenticationFailed():
                return f"{_login(settings)}: refused: {error.args[0] if error.args else 'no reason given'}"
            case IllegalSaslStateError():
                return f"kafka.security_protocol: nobody logs in there, and it is {settings.security_protocol}"
            case UnsupportedSaslMechanismError():
                return f"kafka.sasl_mechanism: the broker doesn't take {settings.sasl_mechanism}"
            case ssl.SSLCertVerificationError(verify_code=code) if code in MISMATCHED_NAME:
                return f"kafka.ssl_check_hostname: the broker's certificate is another's: {error.verify_message}"
            case ssl.SSLCertVerificationError():
                return f"kafka.ssl_ca_file: the broker's certificate is not trusted: {error.verify_message}"
            case ssl.SSLError() if "ALERT" in (error.reason or ""):
                return f"kafka.ssl_certificate_file: the broker refuses this process: {error.reason}"
            case ssl.SSLError():
                return f"kafka.security_protocol: no TLS is spoken there: {error.reason}"
    return None


def _login(settings: KafkaSettings) -> str:
    if settings.sasl_mechanism == "OAUTHBEARER":
        return "kafka.oauth_client_id, kafka.oauth_scope"
    return "kafka.sasl_username, kafka.sasl_password"


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from: aiokafka wraps what ended a connection."""
    while exc is not None:
        yield exc
        exc = exc.__cause__
