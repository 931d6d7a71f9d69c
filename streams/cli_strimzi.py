"""`headgate topics strimzi`: the topics for a cluster whose topics Strimzi's topic operator makes."""

from collections.abc import Iterator
from typing import Annotated

import typer

from streams.settings import KafkaSettings, load


def strimzi(
    cluster: Annotated[str, typer.Option("--cluster", help="The Kafka resource's name.")] = "headgate",
) -> None:
    """Write every topic as a KafkaTopic, instead of `apply`: partitions and replication are those of the settings."""
    typer.echo(
        "# Written by `headgate topics strimzi` from schemas/topics.py and the settings; not to be edited.\n"
        + "---\n".join(kafka_topics(load().kafka, cluster)),
        nl=False,
    )


def kafka_topics(kafka: KafkaSettings, cluster: str) -> Iterator[str]:
    """A YAML document for each topic."""
    from schemas.topics import all_names
    from streams.topics import wanted_shape

    for name, topic in all_names(kafka.topic_prefix).items():
        twin = name.removeprefix(kafka.topic_prefix + topic.name)
        shape = wanted_shape(topic, kafka.partitions, kafka.replication_factor, twin)
        config = "".join(f'    {key}: "{value}"\n' for key, value in shape.config.items())
        yield (
            "apiVersion: kafka.strimzi.io/v1\n"
            "kind: KafkaTopic\n"
            "metadata:\n"
            # Kubernetes allows fewer characters than Kafka.
            f"  name: {name.lower().replace('_', '-')}\n"
            f"  labels: {{strimzi.io/cluster: {cluster}}}\n"
            "spec:\n"
            f"  topicName: {name}\n"
            f"  partitions: {shape.partitions}\n"
            f"  replicas: {shape.replication_factor}\n"
            f"  config:\n{config}"
        )
