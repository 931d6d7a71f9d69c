"""Topics as resources of Kubernetes, for a cluster whose topics Strimzi's topic operator makes."""

from collections.abc import Iterator

from schemas.topics import all_names
from streams.settings import KafkaSettings
from streams.topics import wanted_shape


def kafka_topics(kafka: KafkaSettings, cluster: str) -> Iterator[str]:
    """A YAML document for each topic."""
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
