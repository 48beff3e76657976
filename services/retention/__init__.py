"""How long outcomes are kept: each month has a table, which is dropped when nobody needs it any more."""
