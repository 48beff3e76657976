"""Several databases instead of one: which has which orders, how a database knows its shard, and how one is split."""
