"""Benchmarks: `make bench`. Figures are measured side by side in one run, on real Kafka and PostgreSQL."""
