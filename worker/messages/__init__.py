"""What goes through Kafka: events, verdicts, records, and their JSON Schemas."""
