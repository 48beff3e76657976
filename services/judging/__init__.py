"""Judges commands, without Kafka, SQL or a clock.

Input: records of the commands topic, and the orders that they are about. Output: events, and one outcome for each
record.
"""
