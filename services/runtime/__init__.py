"""The processes of an installation: one for each role, and the supervisor that starts them."""
