"""What a user is told when a server cannot be had."""


class ServerError(Exception):
    """A sentence for the user: what happened and what to do."""
