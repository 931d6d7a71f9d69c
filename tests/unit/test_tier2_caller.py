"""Whose turn it is to call a target: first come, first served, and backfill behind live tickets."""

import asyncio

from tests.dispatching import settled_down, until
from workers.tier2.caller import Caller
from workers.tier2.pacing import Permit, Tokens
from workers.tier2.targets import Target

FEW = Tokens(10, 10)
PATIENCE_S = 30.0


def caller() -> Caller:
    """One that makes a single call at a time, and none in these tests."""
    return Caller(Target("primary", "anthropic", "http://127.0.0.1:1", "claude-sonnet-5-5", "key", 1.0), 1)


async def test_calls_that_stay_behind_let_all_others_but_one_go_first() -> None:
    """The one that stood in line already when the first of the others came."""
    got: list[str] = []
    async with caller() as one, asyncio.TaskGroup() as tasks:
        permit = await one.admit(FEW, PATIENCE_S)
        permits: asyncio.Queue[Permit] = asyncio.Queue()

        async def wait(name: str, behind: bool) -> None:
            made = await one.admit(FEW, PATIENCE_S, behind)
            got.append(name)
            permits.put_nowait(made)

        for name in ("slow1", "slow2", "slow3", "live1", "live2"):
            tasks.create_task(wait(name, name.startswith("slow")))
            await settled_down()
        assert (one.waiting, one.waiting_live) == (5, 2)
        one.give_back(permit)
        for _ in range(5):
            one.give_back(await permits.get())
    assert got == ["slow1", "live1", "live2", "slow2", "slow3"]
    assert (one.waiting, one.waiting_live) == (0, 0)


async def test_one_that_gives_up_waiting_leaves_no_trace() -> None:
    """A ticket that is cancelled, or out of patience, holds up nobody behind it."""
    async with caller() as one:
        permit = await one.admit(FEW, PATIENCE_S)
        first = asyncio.create_task(one.admit(FEW, PATIENCE_S, behind=True))
        second = asyncio.create_task(one.admit(FEW, PATIENCE_S, behind=True))
        await until(lambda: one.waiting == 2)
        first.cancel()
        await until(lambda: one.waiting == 1)
        one.give_back(permit)
        one.give_back(await second)
        assert (one.waiting, one.waiting_live) == (0, 0)
