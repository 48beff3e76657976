"""How long outcomes are kept: a table for each month, dropped whole once nobody needs it."""
