"""The messages in Kafka: events, verdicts, records, and their JSON Schemas."""
