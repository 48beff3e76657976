"""The event store in PostgreSQL: events, outcomes and stored positions, each batch in one transaction.

Writes what was judged. Reads orders, and events and outcomes in the order of their commits.
"""
