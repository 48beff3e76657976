"""Benchmarks: `make bench`. Each run measures all figures side by side, on real Kafka and PostgreSQL."""
