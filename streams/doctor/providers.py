"""Whom the tiers and the judge ask: does the server answer, take the key and know the model? No answer is paid for."""

import time
from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from streams.doctor.finding import Finding, Verdict, shortened
from streams.settings import Settings, Tier1Settings
from streams.tier2 import frontier_config
from workers.tier1.models import load_models, single
from workers.tier2 import wire
from workers.tier2.targets import Target

TIER1, TIER2, JUDGE = "tier-1", "tier-2", "judge"

TIMEOUT_S = 5.0

APART_S, WRONG_S = 5.0, 300.0
"""Clocks may be so far apart: HTTP dates have whole seconds. Past the second, signed requests begin to be refused."""

ANY_NAME = "llamacpp"
"""Who owns a model whose server answers to any name: llama.cpp lists its file."""

_AUTH = frozenset({401, 403})


class _Listed(Struct):
    id: str
    owned_by: str = ""


class _Models(Struct):
    data: list[_Listed]


async def tier1(settings: Settings) -> list[Finding]:
    """The small model's server. Raises: ValueError for a models file that can't be used."""
    config = settings.tier1
    if config.engine == "vllm":
        return [Finding(TIER1, "engine", "ok", "vLLM in the stage's own process: its model is loaded when it starts")]
    names = [m.name for m in (load_models(config.models) if config.models else single(config.model)).served]
    headers = {"authorization": f"Bearer {config.api_key.get_secret_value()}"} if config.api_key else {}
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, headers=headers) as client:
            response = await client.get(f"{config.base_url.rstrip('/')}/models")
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        said = f"no answer from {_shown(config.base_url)} ({type(exc).__name__})"
        return [Finding(TIER1, "server", "wrong", said, "start tier-1's server, or correct tier1.base_url")]
    return [judged_tier1(config, names, response.status_code, response.content)]


def judged_tier1(config: Tier1Settings, names: Sequence[str], status: int, body: bytes) -> Finding:
    """By the answer to GET /models."""
    where = f"{_shown(config.base_url)} answers"
    if status in _AUTH:
        return Finding(TIER1, "server", "wrong", f"{where} HTTP {status}", "correct tier1.api_key")
    try:
        listed = msgspec.json.decode(body, type=_Models).data if status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        listed = None
    if listed is None:
        fix = "is tier1.base_url an OpenAI-compatible server, with its /v1?"
        return Finding(TIER1, "server", "wrong", f"{where} HTTP {status}, and no list of models", fix)
    known = {model.id for model in listed}
    if any(model.owned_by == ANY_NAME for model in listed) or known >= set(names):
        return Finding(TIER1, "server", "ok", f"{where}; model {shortened(names)}")
    said = f"{where} and has no {shortened(sorted(set(names) - known))}; it has {shortened(sorted(known)) or 'none'}"
    return Finding(TIER1, "server", "wrong", said, f"set tier1.{'models' if config.models else 'model'}, or load it")


async def frontier(settings: Settings, section: Literal["tier2", "judge"]) -> list[Finding]:
    """Keys, prices, and each target in turn, with how far its clock is from ours.

    Raises: SettingsError for a missing key; ValueError for a model without a price, or a wrong price table.
    """
    subject = TIER2 if section == "tier2" else JUDGE
    targets = frontier_config(settings, section).targets
    priced = shortened([target.name for target in targets])
    findings = [Finding(subject, "key and price", "ok", f"both there for {priced}")]
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        for target in targets:
            findings += await _asked(client, subject, section, target)
    return findings


async def _asked(client: httpx.AsyncClient, subject: str, section: str, target: Target) -> list[Finding]:
    """GET /v1/models/NAME, which both providers have and charge nothing for."""
    asked = wire.request(target.provider, api_key=target.api_key, model="", system="", user="", max_tokens=1)
    address = f"{target.base_url.rstrip('/').removesuffix('/v1')}/v1/models/{target.model}"
    began_s = time.time()
    try:
        response = await client.get(address, headers=asked.headers)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        said = f"no answer from {_shown(target.base_url)} ({type(exc).__name__})"
        return [
            Finding(
                subject,
                target.name,
                "wrong",
                said,
                f"correct {section}.base_url, or open the way to it (firewall, proxy)",
            )
        ]
    found = judged_target(subject, section, target, response.status_code, response.content)
    clocks = judged_date(subject, response.headers.get("date", ""), began_s, time.time())
    return [found, clocks] if clocks else [found]


def judged_target(subject: str, section: str, target: Target, status: int, body: bytes) -> Finding:
    """By the answer to GET /v1/models/NAME."""
    where = f"{_shown(target.base_url)} answers"
    if status == 200:
        return Finding(subject, target.name, "ok", f"{where}, takes the key and knows the model")
    failure = wire.failure(status, {}, body, 0.0, target.api_key)
    if status in _AUTH:
        return Finding(subject, target.name, "wrong", f"{where} {failure}", f"correct {section}.api_key")
    if status == 404 and str(failure) != "HTTP 404":
        # The provider's own words, and not those of a server that has no such page.
        return Finding(subject, target.name, "wrong", f"{where} {failure}", f"correct {section}.model")
    said = f"{where} {failure}: key and model could not be tried without paying"
    return Finding(
        subject, target.name, "warning", said, "nothing, if a gateway of yours stands there; else its status"
    )


def _shown(base_url: str) -> str:
    """The address without a name and password that may stand in it."""
    url = urlsplit(base_url)
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()


def judged_date(subject: str, date: str, began_s: float, ended_s: float) -> Finding | None:
    """How far this machine's clock is from the server's, by its answer's Date; None if it has none."""
    try:
        at = parsedate_to_datetime(date)
    except ValueError:
        return None
    server_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    # The date is cut to the second, and was written while we waited.
    apart_s = max(began_s - server_s - 1.0, server_s - ended_s, 0.0)
    if apart_s <= APART_S:
        return Finding(subject, "clock", "ok", "this machine's is the server's, to some seconds")
    ahead = "ahead of" if began_s > server_s else "behind"
    verdict: Verdict = "wrong" if apart_s > WRONG_S else "warning"
    return Finding(
        subject, "clock", verdict, f"this machine's is {apart_s:.0f} s {ahead} the server's", "let NTP set it"
    )
