"""OAUTHBEARER's tokens, by the grant of client credentials: one for all clients of a process, renewed in good time.

Source: RFC 6749, section 4.4.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from functools import cache

import httpx
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError

from streams.settings import KafkaSettings, SettingsError, secret

RENEW_AT = 0.8
"""Of a token's life."""
LIFE_S = 60.0
"""Of a token that comes without one (a guess)."""
LIMIT_S = 10.0


class TokenError(KafkaError):  # type: ignore[misc]
    """No token was had, for a reason that may pass: clients try again."""


class TokenRefusedError(TokenError):
    """The token endpoint doesn't take what the settings say; they are named."""


class Tokens(AbstractTokenProvider):  # type: ignore[misc]
    """Gives aiokafka a token for each login. May be asked from several threads, each with a loop of its own."""

    def __init__(self, settings: KafkaSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._turn = threading.Lock()
        self._token: str | None = None
        self._renew_s = self._end_s = 0.0
        """By the clock, in seconds."""

    async def token(self) -> str:
        """A token that is valid still. Raises: TokenError."""
        return await asyncio.to_thread(self._current)

    def _current(self) -> str:
        with self._turn:
            if self._token is None or self._clock() >= self._renew_s:
                try:
                    self._renew()
                except TokenError:
                    # The old one will do as long as it lasts.
                    if self._token is None or self._clock() >= self._end_s:
                        raise
            return self._token or ""

    def _renew(self) -> None:
        asked_s = self._clock()
        answer = _asked(self._settings)
        try:
            said = answer.json()
            token, life_s = str(said["access_token"]), float(said.get("expires_in") or LIFE_S)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise TokenRefusedError("kafka.oauth_token_url: the answer there is no token") from exc
        self._token, self._renew_s, self._end_s = token, asked_s + RENEW_AT * life_s, asked_s + life_s


def _asked(settings: KafkaSettings) -> httpx.Response:
    """The token endpoint's answer. Raises: TokenError."""
    form = {"grant_type": "client_credentials"} | ({"scope": settings.oauth_scope} if settings.oauth_scope else {})
    held = settings.oauth_client_secret, settings.oauth_client_secret_file
    try:
        login = settings.oauth_client_id or "", secret("kafka.oauth_client_secret", *held) or ""
        answer = httpx.post(settings.oauth_token_url or "", data=form, auth=login, timeout=LIMIT_S)
    except SettingsError as exc:
        raise TokenRefusedError(str(exc)) from exc
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as exc:
        raise TokenRefusedError(f"kafka.oauth_token_url: {exc}") from exc
    except httpx.HTTPError as exc:
        raise TokenError(f"the token endpoint can't be reached: {type(exc).__name__}: {exc}") from exc
    match answer.status_code:
        case 200:
            return answer
        case 400 | 401 | 403:
            raise TokenRefusedError(
                "kafka.oauth_client_id, kafka.oauth_client_secret, kafka.oauth_scope: "
                f"the token endpoint refuses them: {answer.status_code} {_error(answer)}"
            )
        case 404 | 405:
            raise TokenRefusedError(f"kafka.oauth_token_url: {answer.status_code}, no token endpoint is there")
        case status:
            raise TokenError(f"the token endpoint answered {status}")


def _error(answer: httpx.Response) -> str:
    """RFC 6749's error code, which holds no secret; the rest of the answer might."""
    try:
        return str(answer.json()["error"])[:100]
    except (ValueError, KeyError, TypeError):
        return ""


@cache
def tokens(settings: KafkaSettings) -> Tokens:
    """The process's tokens: one provider for all of its clients, since each would ask for one of its own."""
    return Tokens(settings)
