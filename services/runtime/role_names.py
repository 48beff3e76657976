"""The roles' names, for those who need no more of a role than its name: importing the roles takes a second."""

ROLE_NAMES = ("commands", "timer", "relay", "projections", "http", "checkpoints")
"""In the order in which they start, and in which their metrics ports are numbered."""

OF_ALL_SHARDS = ("http",)
"""The roles of which one process works for all shards. Of the others each has a process for each shard."""
