"""The event store in PostgreSQL: events, outcomes and Kafka positions, each batch in one transaction.

In: what was judged. Out: orders loaded from their events, and everything in the order of the commits.
"""
