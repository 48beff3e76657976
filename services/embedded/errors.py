"""The error that embedded servers raise."""

from services.failures import Failure


class ServerError(Failure):
    """An embedded server cannot be provided. The message tells the user what happened and what to do."""
