"""The Faust application: events and labels in, the board's tables with their changelogs out.

Faust reads the topics, writes every change of a table to its changelog and fills the tables from there at a start. What
is counted is `board`'s to say. Two things differ from Faust's ways (`_Consumer`): it reads committed records only, and
it begins where the tables end and not at the committed offset, which may be ahead of what the changelogs hold. Nothing
is read before it is there: a record that is counted out of its order hides those before it.

One process has all partitions, since its pages add up what it has. A process whose partitions move ends with an error:
started again it finds its tables as the changelogs have them, and nothing of an earlier assignment on its way there.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar, cast

import faust
import structlog
from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials
from faust.serializers.codecs import Codec
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.auth import CredentialsT
from msgspec import Struct

from schemas.codec import PoisonError, decode, encode
from schemas.topics import (
    AUDITS,
    EVENTS,
    LABELS,
    SCOREBOARD_AUDITS,
    SCOREBOARD_CELLS,
    SCOREBOARD_JOURNEYS,
    SCOREBOARD_LABELS,
    Topic,
)
from streams.connection import connection
from streams.runtime.clock import utc_now
from streams.scoreboard.board import INPUTS, AuditOf, Board, Counted, DraftOf, Tables, TicketOf, Waiting, Window
from streams.scoreboard.journeys import Journey
from streams.scoreboard.quality import Judged
from streams.settings import KafkaSettings, ScoreboardSettings

GROUP = "headgate-scoreboard"

COMMIT_S = 2.0
"""Between two commits. They decide nothing: they tell others how far the scoreboard is."""

NONE_READY_S = 0.1
"""Before it is looked again for partitions that may be read."""

BUFFERED = 256
"""Records read ahead of the handlers: an audit may have megabytes."""

log = structlog.get_logger()


class PartitionsMovedError(Exception):
    """Another process has joined the group, or this one was away for too long."""


class ChangelogError(Exception):
    """A row of a changelog is none of ours, or another version's."""


def credentials(kafka: KafkaSettings) -> CredentialsT | None:
    """What every client is told (`connection`), in Faust's own types."""
    told = connection(kafka)
    tls: ssl.SSLContext | None = told.get("ssl_context")
    if provider := told.get("sasl_oauth_token_provider"):
        return OAuthCredentials(oauth_cb=provider, ssl_context=tls)
    if mechanism := told.get("sasl_mechanism"):
        username, password = told["sasl_plain_username"], told["sasl_plain_password"]
        return SASLCredentials(username=username, password=password, ssl_context=tls, mechanism=mechanism)
    return SSLCredentials(tls) if tls else None


class _Codec(Codec):
    """One kind of Struct as JSON. Faust's own codecs would write import paths into the records."""

    def __init__(self, record_type: type[Struct], unreadable: Callable[[PoisonError], None]) -> None:
        super().__init__()
        self._record_type, self._unreadable = record_type, unreadable

    def _dumps(self, obj: Struct) -> bytes:
        return encode(obj)

    def _loads(self, s: bytes) -> Struct:
        try:
            return decode(self._record_type, s)
        except PoisonError as exc:
            self._unreadable(exc)
            raise


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust reads so only with its own transactions. Looked at when the client starts, which is later.
        consumer._isolation_level = "read_committed"
        return consumer


class _Consumer(driver.Consumer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._placed: set[TP] = set()

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Called when the tables are filled: go on where they end."""
        self._placed.clear()
        await super().perform_seek()
        app = cast(Scoreboard, self.app)
        for partition, offset in app.places(self.assignment()).items():
            await self.seek(partition, offset)
            # Else Faust waits for acknowledgements from there on, and never commits again.
            self._committed_offset[partition] = offset or None
            self._placed.add(partition)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        # Faust resumes the partitions first and seeks after; and of no partitions its client returns all it has.
        ready = {tp for tp in active_partitions or () if tp in self._placed or self._is_changelog_tp(tp)}
        if not ready:
            await self.sleep(NONE_READY_S)
            return {}
        return await super()._getmany(ready, timeout)


class _Transport(driver.Transport):
    Consumer: ClassVar[Any] = _Consumer


class _SendErrors(faust.Sensor):
    """A change that can't be written ends the process: later ones would stand in the changelog without it."""

    def __init__(self, failed: "asyncio.Future[None]") -> None:
        super().__init__()
        self._failed = failed

    def on_send_error(self, producer: Any, exc: BaseException, state: Any) -> None:
        _fail(self._failed, exc)


def _fail(failed: "asyncio.Future[None]", exc: BaseException) -> None:
    if not failed.done():
        failed.set_exception(exc)


class Scoreboard(faust.App):
    """The application. What it has counted is in `board`; it can be shown once `is_loaded`."""

    def __init__(self, kafka: KafkaSettings, config: ScoreboardSettings, partitions: Mapping[str, int]) -> None:
        """`partitions`: of the topics that it reads, by their full names."""
        super().__init__(
            kafka.topic_prefix + GROUP,
            broker=[f"kafka://{server}" for server in kafka.bootstrap_servers.split(",")],
            broker_credentials=credentials(kafka),
            store="memory://",
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            consumer_auto_offset_reset="earliest",
            consumer_group_instance_id=kafka.group_instance_id,
            broker_session_timeout=kafka.session_timeout_s,
            broker_heartbeat_interval=kafka.session_timeout_s / 4,
            broker_commit_interval=COMMIT_S,
            stream_wait_empty=False,
            stream_buffer_maxsize=BUFFERED,
        )
        self._prefix = kafka.topic_prefix
        self._partitions = partitions
        self._wanted = {TP(topic, number) for topic, count in partitions.items() for number in range(count)}
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done with what ends the process."""
        self.is_loaded = False
        self.transport = _Transport([self.conf.broker[0]], self)
        self.sensors.add(_SendErrors(self.failed))
        self.board = Board(
            Tables(
                self._table(SCOREBOARD_CELLS, EVENTS, Window, Counted),
                self._table(SCOREBOARD_JOURNEYS, EVENTS, TicketOf, Journey),
                self._table(SCOREBOARD_LABELS, LABELS, DraftOf, Judged),
                self._table(SCOREBOARD_AUDITS, AUDITS, AuditOf, Waiting),
            ),
            config.tickets,
            config.labels,
        )
        for topic in INPUTS:
            channel = self.topic(self._prefix + topic, key_serializer="raw", value_serializer="raw", allow_empty=True)
            self.agent(channel, name=topic)(self._taking(topic))
        self.on_partitions_revoked.connect(self._moved)

    def fail_with(self, task: "asyncio.Future[Any]") -> None:
        """What ended a task with an error ends the process."""
        if not task.cancelled() and (exc := task.exception()):
            _fail(self.failed, exc)

    def _create_directories(self) -> None:
        """None: the tables are in memory, and the file system may be read-only."""

    def _crash(self, reason: BaseException) -> None:
        super()._crash(reason)
        _fail(self.failed, reason)

    def partitions_of(self, topic: Topic) -> int:
        """Of one that it reads."""
        return self._partitions[self._prefix + topic.name]

    def _table(self, topic: Topic, source: Topic, key: type[Struct], value: type[Struct]) -> Any:
        """A table whose rows are in the changelog's partition of the source's record that changed them."""
        name = self._prefix + topic.name

        def unreadable(exc: PoisonError) -> None:
            # Faust would pass the row over, and the figures be wrong from there on.
            _fail(self.failed, ChangelogError(f"{name}: {exc.reason}; without the scoreboard-* topics it counts anew"))

        keys, values = _Codec(key, unreadable), _Codec(value, unreadable)
        partitions = self.partitions_of(source)
        changelog = self.topic(
            name,
            key_serializer=keys,
            value_serializer=values,
            partitions=partitions,
            internal=True,
            acks=False,
            allow_empty=True,
        )
        table = self.Table(topic.name, partitions=partitions, changelog_topic=changelog)
        # A table writes with codecs of its own, which it can be told in no other way.
        vars(table).update(key_serializer=keys, value_serializer=values)
        return table

    def _taking(self, topic: str) -> Callable[[Any], Awaitable[None]]:
        async def take(stream: Any) -> None:
            async for event in stream.events():
                at = event.message
                try:
                    self.board.take(topic, at.partition, at.offset, at.value, utc_now().timestamp())
                except Exception as exc:
                    # Faust would pass the record over and go on.
                    _fail(self.failed, exc)
                    raise

        return take

    def places(self, assignment: Iterable[TP]) -> dict[TP, int]:
        """Where to go on reading, once the tables are filled from their changelogs."""
        if self.in_recovery:
            return {}
        mine = set(assignment) & self._wanted
        self.board.restored()
        self.is_loaded = mine == self._wanted
        log.info("scoreboard_loaded", partitions=len(mine), of=len(self._wanted))
        return {tp: self.board.next_offset(tp.topic.removeprefix(self._prefix), tp.partition) for tp in mine}

    async def _moved(self, *_: Any, **__: Any) -> None:
        if self.is_loaded and not self.should_stop:
            _fail(self.failed, PartitionsMovedError("partitions moved to another process, or the broker was away"))
