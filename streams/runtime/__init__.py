"""What every stage runs on: exactly-once effects, retries, dead letters, health and metrics."""
