"""A commit point as the text that Kafka keeps beside a committed offset, and back.

`h1:OFFSET:BEGUN:BITS`: the version, the commit point's own offset, how many
offsets had begun from there on, and the finished ones as base-85 bits. The
offset is repeated inside so that text that stands beside another offset (a tool
has reset the group, a client has committed by itself) is not taken for its own.
"""

import base64
import binascii

from streams.runtime.offsets import MAX_DISTANCE, CommitPoint

MAX_BYTES = 4096
"""The broker's default limit (offset.metadata.max.bytes); a commit with more is refused."""
VERSION = "h1"


def encode(point: CommitPoint) -> str:
    """At most MAX_BYTES of ASCII for any commit point within MAX_DISTANCE."""
    return f"{VERSION}:{point.offset}:{point.begun}:{base64.b85encode(point.finished).decode()}"


def decode(offset: int, metadata: str) -> CommitPoint:
    """The commit point beside a committed `offset`. What can't be read says nothing: its records are done again."""
    version, _, rest = metadata.partition(":")
    try:
        own, begun, bits = rest.split(":")
        point = CommitPoint(int(own), int(begun), base64.b85decode(bits))
    except (ValueError, binascii.Error):
        return CommitPoint(offset)
    fits = 0 <= point.begun <= MAX_DISTANCE and len(point.finished) <= (point.begun + 7) // 8
    if version != VERSION or point.offset != offset or not fits:
        return CommitPoint(offset)
    return point
