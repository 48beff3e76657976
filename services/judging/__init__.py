"""Judges commands, without Kafka, SQL or a clock.

In: records of the commands topic, and the orders that they are about. Out: events, and one outcome for each record.
"""
