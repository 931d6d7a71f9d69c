"""`headgate topics`: made, looked at, and written down for those who make them otherwise."""

from typing import Annotated

import orjson
import typer
from rich.table import Table

from schemas.topics import Client
from streams.command import console, run
from streams.settings import load

app = typer.Typer(help="Create the topics, or look at them.", no_args_is_help=True)


@app.command()
def apply() -> None:
    """Create missing topics and partitions; never removes or changes any."""
    from streams import topics

    made = run(topics.apply(load().kafka))
    table = Table("topic", "partitions", "done", "left as it is")
    for topic in made:
        table.add_row(topic.topic, str(topic.partitions), topic.action, "; ".join(topic.drift))
    console.print(table)


@app.command()
def show() -> None:
    """The topics as they are: partitions, retention, records."""
    from streams import topics

    table = Table("topic", "partitions", "leaders", "kept", "cleanup", "records (at most)")
    for topic in run(topics.show(load().kafka)):
        kept = "for ever" if topic.retention_ms in (None, -1) else f"{topic.retention_ms / 86_400_000:g} days"
        led = sum(leader is not None for leader in topic.leaders)
        table.add_row(
            topic.topic,
            str(topic.partitions or "missing"),
            f"{led}/{topic.partitions}",
            kept,
            topic.cleanup,
            str(topic.records),
        )
    console.print(table)


@app.command()
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


@app.command()
def strimzi(
    cluster: Annotated[str, typer.Option("--cluster", help="The Kafka resource's name.")] = "headgate",
) -> None:
    """Write every topic as a KafkaTopic, instead of `apply`: partitions and replication are those of the settings."""
    from streams.strimzi import kafka_topics

    typer.echo(
        "# Written by `headgate topics strimzi` from schemas/topics.py and the settings; not to be edited.\n"
        + "---\n".join(kafka_topics(load().kafka, cluster)),
        nl=False,
    )
