"""`headgate topics acls`: what each client needs to be allowed, on a Kafka with an authoriser."""

from typing import Annotated

import orjson
import typer

from schemas.topics import Client
from streams.settings import load


def acls(
    client: Annotated[Client | None, typer.Argument(help="Whose; without it everybody's.")] = None,
    principal: Annotated[str, typer.Option("--principal", help="Its principal; by default User:headgate-CLIENT.")] = "",
    strimzi: Annotated[
        str, typer.Option("--strimzi", metavar="CLUSTER", help="As KafkaUsers of this Strimzi cluster, in JSON.")
    ] = "",
) -> None:
    """Least-privilege ACLs, as lines of Kafka's kafka-acls.sh. Nothing is sent to Kafka."""
    from streams.acls import CLIENTS, acls, kafka_acls, kafka_user

    if principal and client is None:
        raise typer.BadParameter("--principal is one client's: name it, too")
    kafka = load().kafka
    wanted = [
        (principal or f"User:headgate-{each}", acls(each, kafka.topic_prefix))
        for each in ([client] if client else CLIENTS)
    ]
    if strimzi:
        users = [kafka_user(found, of, strimzi) for of, found in wanted]
        typer.echo(orjson.dumps({"apiVersion": "v1", "kind": "List", "items": users}, option=orjson.OPT_INDENT_2))
        return
    for of, found in wanted:
        for line in kafka_acls(found, of, kafka.bootstrap_servers):
            typer.echo(line)
