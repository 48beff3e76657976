"""The error that embedded servers raise."""


class ServerError(Exception):
    """An embedded server cannot be provided. The message tells the user what happened and what to do."""
