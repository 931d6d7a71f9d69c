"""From where the scoreboard reads: what differs from Faust's ways."""

from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from schemas.topics import EVENTS, SCOREBOARD_CELLS
from streams.scoreboard.application import Scoreboard
from streams.scoreboard.board import INPUTS
from streams.settings import KafkaSettings, ScoreboardSettings

EVENTS_0 = TP(EVENTS.name, 0)
CELLS_0 = TP(SCOREBOARD_CELLS.name, 0)


async def test_nothing_is_read_before_its_place_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust resumes the partitions before it seeks. Records from the committed offset, if they come first, hide those
    before them: the figures would lack these for good."""
    asked, sought = [], {}

    async def getmany(_: Any, partitions: set[TP], timeout: float) -> dict[TP, list[Any]]:
        asked.append(partitions)
        return {}

    async def seek(_: Any, partition: TP, offset: int) -> None:
        sought[partition] = offset

    async def no_offsets(_: Any) -> dict[TP, int]:
        return {}

    monkeypatch.setattr(driver.Consumer, "_getmany", getmany)
    monkeypatch.setattr(driver.Consumer, "_seek", seek)
    monkeypatch.setattr(driver.Consumer, "seek_to_committed", no_offsets)
    app = Scoreboard(KafkaSettings(), ScoreboardSettings(), dict.fromkeys(INPUTS, 1))
    consumer: Any = app.consumer
    monkeypatch.setattr(consumer, "assignment", lambda: {EVENTS_0, CELLS_0})
    resumed = {EVENTS_0, CELLS_0}

    await consumer._getmany(resumed, 0.0)
    await consumer._getmany({EVENTS_0}, 0.0)
    assert asked == [{CELLS_0}], "of no partitions the client returns all it has: so it must not be asked"
    await consumer.perform_seek()
    assert sought == {EVENTS_0: 0}
    await consumer._getmany(resumed, 0.0)
    assert asked[1:] == [resumed]
    app.in_recovery = True
    await consumer.perform_seek()
    await consumer._getmany(resumed, 0.0)
    assert asked[2:] == [{CELLS_0}], "the tables are being filled again"
