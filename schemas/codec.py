"""Records to bytes and back: JSON, typed and validated. A record that can't be read keeps its bytes."""

import re
from functools import cache
from typing import TypeVar

import msgspec
from msgspec import Struct

S = TypeVar("S", bound=Struct)

_encoder = msgspec.json.Encoder()

_QUOTED_VALUE = re.compile(r"enum value .*(?= - at `[^`]*`$)", re.DOTALL)
"""The one thing that msgspec's errors quote from the data: a value that stands in no enum."""


class PoisonError(Exception):
    """A record that can't be decoded. `data` is the record's value exactly as it came."""

    def __init__(self, reason: str, data: bytes | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.data = data


@cache
def _decoder(record_type: type[Struct]) -> msgspec.json.Decoder[Struct]:
    return msgspec.json.Decoder(record_type)


def encode(record: Struct) -> bytes:
    """A record as UTF-8 JSON."""
    return _encoder.encode(record)


def decode(record_type: type[S], data: bytes | None) -> S:
    """A record from UTF-8 JSON; unknown fields are accepted.

    Raises: PoisonError with the original bytes; its reason holds field names, never field values.
    """
    if data is None:
        raise PoisonError("the record has no value (a tombstone)", data)
    try:
        return _decoder(record_type).decode(data)  # type: ignore[return-value]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        reason = _QUOTED_VALUE.sub("enum value", str(exc))
        raise PoisonError(f"not a {record_type.__name__}: {reason}", data) from exc
