"""Other ways to build such a service, measured with the same commands."""
