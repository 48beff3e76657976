"""The relay role: store to Kafka."""
