"""The Kafka code that the roles share: topics, consumers whose positions are in PostgreSQL, and transactions."""
