"""What travels between stages: records, topics and the codec. Imports nothing of ours and does no I/O.

Compatibility rule: a reader accepts unknown fields, and a new field always has a
default. So old and new processes can share a topic in either order of upgrade;
a field is never renamed, removed or given another meaning under the same name.
"""
