"""The work: models and decisions. Nothing here knows Kafka."""
