"""HTTP to a provider: the client, and its library's errors as ours."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from workers.errors import RetryableError
from workers.tier2 import wire

CONNECT_TIMEOUT_S = 10.0
"""A guess: a healthy provider accepts a connection within a tenth of it."""


class NotSentError(RetryableError):
    """The request never left: it can't have cost anything."""


def client(base_url: str) -> httpx.AsyncClient:
    """For an address with or without the closing /v1."""
    return httpx.AsyncClient(
        base_url=base_url.rstrip("/").removesuffix("/v1"),
        http2=True,
        # asyncio.timeout bounds the whole call; httpx's own limits are per read, which a dripping server never meets.
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        # The pacer bounds the calls in flight; a second bound here would only queue them unseen.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        # A company's proxy settings are for the provider, not for a server on this machine.
        mounts={"all://127.0.0.1": None, "all://localhost": None},
    )


@asynccontextmanager
async def within(timeout_s: float) -> AsyncIterator[None]:
    """A call's time, all of it.

    Raises: NotSentError if there was no connection; RetryableError if no answer came in time or the connection broke;
    wire.TargetError for a certificate that can't be verified.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as exc:
        raise RetryableError(f"no answer within {timeout_s:.1f} s") from exc
    except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
        if _is_untrusted(exc):
            raise wire.TargetError("no connection: its certificate can't be verified") from exc
        raise NotSentError(f"no connection: {type(exc).__name__}") from exc
    except httpx.RequestError as exc:
        raise RetryableError(f"the connection broke: {type(exc).__name__}") from exc


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether a certificate that failed to verify is behind it."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None
