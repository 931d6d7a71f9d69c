"""The movement: records in and out of Kafka. Nothing here knows a model."""
