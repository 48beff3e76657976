"""What would have come out under other terms: judges history again in memory, and compares (D20)."""
