"""Other ways to build the same, measured on the same commands."""
