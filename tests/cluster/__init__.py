"""Three brokers, a PostgreSQL primary with a standby, PgBouncer, and what happens when parts of them fail.

`make cluster` runs all of it with many seeds, `make faults` a short form, `make test` none of it.
"""
