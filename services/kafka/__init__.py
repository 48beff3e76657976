"""What the roles share of Kafka: topics, and a consumer whose positions are in PostgreSQL."""
