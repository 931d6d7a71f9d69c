"""JSON Schema files and the AsyncAPI document, generated from the records, a replay and the table of topics."""

from typing import Any

import msgspec

from schemas.replays import Replay
from schemas.topics import TOPICS, named


def documents() -> dict[str, dict[str, Any]]:
    """Every document by its file name; `asyncapi.json` refers to the others."""
    records = {t.value.__name__: t.value for t in TOPICS if t.value is not None} | {Replay.__name__: Replay}
    return {f"{name}.schema.json": _schema(record) for name, record in records.items()} | {"asyncapi.json": _asyncapi()}


def _schema(record: type[msgspec.Struct]) -> dict[str, Any]:
    (root,), definitions = msgspec.json.schema_components([record], ref_template="#/$defs/{name}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _asyncapi() -> dict[str, Any]:
    channels: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for topic in TOPICS:
        name = topic.value.__name__ if topic.value else "DeadLetter"
        payload = {"$ref": f"./{name}.schema.json"} if topic.value else {"description": "the original bytes"}
        messages[name] = {
            "contentType": "application/json" if topic.value else "application/octet-stream",
            "payload": payload,
            "bindings": {"kafka": {"key": {"type": "string", "description": topic.key}}},
        }
        channels[topic.name] = {
            "address": topic.name,
            "description": f"Written by {named(topic.written_by)}; read by {named(topic.read_by)}.",
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
            "bindings": {
                "kafka": {
                    "topicConfiguration": {
                        "cleanup.policy": topic.cleanup.split(","),
                        "retention.ms": topic.retention_ms,
                    }
                }
            },
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Headgate", "version": "0.1.0", "description": "Support tickets in, checked answers out."},
        "channels": channels,
        "components": {"messages": messages},
    }
