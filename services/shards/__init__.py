"""Several databases instead of one: which has what, how a database knows its place, and how one is split.

In: partitions of the topics. Out: the shard of each.
"""
