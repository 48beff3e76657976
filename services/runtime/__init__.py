"""The processes of an installation: a process for each role, and the supervisor that starts them."""
