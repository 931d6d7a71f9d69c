"""The published documents: current, valid, and complete."""

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from referencing import Registry

from schemas.codec import encode
from schemas.documents import documents
from schemas.tickets import Ticket
from schemas.topics import TOPICS
from tests.records import a_draft, a_routed, a_ticket

PUBLISHED = Path(__file__).parents[2] / "schemas" / "published"
RECORDS = [topic.value.__name__ for topic in TOPICS if topic.value]


def test_the_published_documents_are_current() -> None:
    """`headgate schemas` writes them; a change of a record that forgets to run it fails here."""
    written = {path.name: json.loads(path.read_bytes()) for path in PUBLISHED.iterdir()}
    assert written == json.loads(json.dumps(documents()))


@pytest.mark.parametrize("name", RECORDS)
def test_a_schema_is_valid_and_stands_by_itself(name: str) -> None:
    """A helpdesk's own tools can use the file, without the others."""
    schema = json.loads((PUBLISHED / f"{name}.schema.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema, registry=Registry())
    assert not validator.is_valid({})


@pytest.mark.parametrize(("name", "record"), [("Ticket", a_ticket()), ("Routed", a_routed()), ("Draft", a_draft())])
def test_what_we_send_is_what_we_publish(name: str, record: msgspec.Struct) -> None:
    """A record as it travels fits its schema."""
    jsonschema.validate(json.loads(encode(record)), json.loads((PUBLISHED / f"{name}.schema.json").read_bytes()))


def test_a_schema_takes_unknown_fields_and_says_what_a_moment_is() -> None:
    """The compatibility rule holds for readers that validate; times are RFC 3339."""
    schema = json.loads((PUBLISHED / f"{Ticket.__name__}.schema.json").read_bytes())
    jsonschema.validate({"ticket_id": "t1", "body": "x", "field_of_the_future": 1}, schema)
    assert "date-time" in json.dumps(schema["$defs"]["Ticket"]["properties"]["created_at"])


def test_every_topic_is_in_the_asyncapi_document() -> None:
    """With a message whose payload is a file that is there."""
    document = json.loads((PUBLISHED / "asyncapi.json").read_bytes())
    assert set(document["channels"]) == {topic.name for topic in TOPICS}
    for channel in document["channels"].values():
        for message in channel["messages"].values():
            payload = document["components"]["messages"][message["$ref"].rpartition("/")[2]]["payload"]
            assert "$ref" not in payload or (PUBLISHED / payload["$ref"]).is_file()
