"""What operators see of tier-2's targets and of its spend limits, read when they ask."""

from functools import partial

from prometheus_client import Gauge

from schemas.spend import Period
from workers.tier2.caller import Caller
from workers.tier2.client import Tier2
from workers.tier2.spend import SpendLimits, limits_of
from workers.tier2.spend_book import PERIODS
from workers.tier2.spend_desk import SpendDesk

CONCURRENCY = Gauge("headgate_tier2_concurrency", "Calls that may be under way at a target now.", ["target"])
IN_FLIGHT = Gauge("headgate_tier2_in_flight", "Calls under way at a target.", ["target"])
WAITING = Gauge("headgate_tier2_waiting", "Calls that wait for their turn at a target.", ["target"])
BREAKER = Gauge("headgate_tier2_breaker_open", "1 while a target has failed too often to be asked.", ["target"])
SPENT = Gauge(
    "headgate_tier2_spend_usd",
    "What counts in the current UTC period, over all processes: costs, and the worst cases of calls under way.",
    ["period"],
)
LIMIT = Gauge(
    "headgate_tier2_spend_limit_usd",
    "The limit of the period for all tenants together, where there is one.",
    ["period"],
)


def show(tier2: Tier2, spend: SpendDesk, limits: SpendLimits) -> None:
    """Have the metrics tell of these from now on."""
    for name, caller in tier2.callers.items():
        CONCURRENCY.labels(name).set_function(partial(_concurrency, caller))
        IN_FLIGHT.labels(name).set_function(partial(_in_flight, caller))
        WAITING.labels(name).set_function(partial(_waiting, caller))
        BREAKER.labels(name).set_function(partial(_broken, caller))
    for period in PERIODS:
        SPENT.labels(period).set_function(partial(_spent_usd, spend, period))
    LIMIT.clear()
    for limit in limits_of(limits, ""):
        if limit.scope == "all":
            LIMIT.labels(limit.period).set(limit.micro_usd / 1e6)


def _concurrency(caller: Caller) -> float:
    return caller.pacer.concurrency


def _in_flight(caller: Caller) -> float:
    return caller.pacer.in_flight


def _waiting(caller: Caller) -> float:
    return caller.waiting


def _broken(caller: Caller) -> float:
    return caller.is_broken


def _spent_usd(spend: SpendDesk, period: Period) -> float:
    return spend.book.counted_micro_usd(None, period, spend.now_s()) / 1e6
