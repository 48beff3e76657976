"""The timer role: publishes `ExpireDispute` after a deadline, so that the dispute is auto-accepted soon."""
