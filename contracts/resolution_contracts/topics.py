"""Names of the topics and of the message types on them."""

PREFIX = "resolution."

COMMANDS = "resolution.commands"
EVENTS = "resolution.events"
OUTCOMES = "resolution.outcomes"
DEAD_LETTERS = "resolution.commands.dead"
NOTIFICATIONS = "resolution.notifications"

CONTENT_TYPE = "application/cloudevents+json"
SOURCE = "/resolution-center"
MAX_COMMAND_BYTES = 256 * 1024


def command_type(name: str, version: int = 1) -> str:
    """Returns the CloudEvents type of a command: `resolution.command.Accept.v1` for `Accept`."""
    return f"resolution.command.{name}.v{version}"


def event_type(name: str, version: int = 1) -> str:
    """Returns the CloudEvents type of an event: `resolution.event.Accepted.v1` for `Accepted`."""
    return f"resolution.event.{name}.v{version}"


def outcome_type(name: str, version: int = 1) -> str:
    """Returns the CloudEvents type of an outcome: `resolution.outcome.CommandAccepted.v1` for `CommandAccepted`."""
    return f"resolution.outcome.{name}.v{version}"


def notification_type(name: str, version: int = 1) -> str:
    """Returns the CloudEvents type of a notification: `resolution.notification.DisputeReminder.v1`."""
    return f"resolution.notification.{name}.v{version}"
