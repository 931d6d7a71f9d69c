"""A commit point as the text that Kafka keeps beside a committed offset, and back.

`h1:SUM:OFFSET:BEGUN:BITS`: the version, a checksum of the rest, the commit
point's own offset, how many offsets had begun from there on, and the finished
ones as base-85 bits. The offset is repeated inside so that text that stands
beside another offset (a tool has reset the group, a client has committed by
itself) is not taken for its own.
"""

import base64
import binascii
import zlib

from streams.runtime.offsets import MAX_DISTANCE, CommitPoint

MAX_BYTES = 4096
"""The broker's default limit (offset.metadata.max.bytes); a commit with more is refused."""
VERSION = "h1"


def encode(point: CommitPoint) -> str:
    """At most MAX_BYTES of ASCII for any commit point within MAX_DISTANCE."""
    rest = f"{point.offset}:{point.begun}:{base64.b85encode(point.finished).decode()}"
    return f"{VERSION}:{_sum(rest)}:{rest}"


def decode(offset: int, metadata: str) -> CommitPoint:
    """The commit point beside a committed `offset`. What can't be read says nothing: its records are done again."""
    try:
        version, checksum, rest = metadata.split(":", 2)
        own, begun, bits = rest.split(":")
        point = CommitPoint(int(own), int(begun), base64.b85decode(bits))
    except (ValueError, binascii.Error):
        return CommitPoint(offset)
    fits = 0 <= point.begun <= MAX_DISTANCE and len(point.finished) <= (point.begun + 7) // 8
    if version != VERSION or checksum != _sum(rest) or point.offset != offset or not fits:
        return CommitPoint(offset)
    return point


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
