"""The outcomes: what became of a command. Each command has exactly one."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict


class Code(StrEnum):
    """Why a command was rejected."""

    ORDER_UNKNOWN = "order_unknown"
    ORDER_EXISTS = "order_exists"
    ORDER_CLOSED = "order_closed"
    INVALID_TRANSITION = "invalid_transition"
    NOT_A_PARTY = "not_a_party"
    NOT_ALLOWED = "not_allowed"
    DISPUTE_OPEN = "dispute_open"
    DISPUTE_UNKNOWN = "dispute_unknown"
    DISPUTE_SETTLED = "dispute_settled"
    NOT_DUE = "not_due"
    APPROVAL_NEEDED = "approval_needed"
    REFUND_OVER_LIMIT = "refund_over_limit"
    REFUND_ALREADY_GRANTED = "refund_already_granted"
    REFUND_UNKNOWN = "refund_unknown"
    COMMAND_ID_REUSED = "command_id_reused"
    CURRENCY_MISMATCH = "currency_mismatch"
    INVALID = "invalid"


class Outcome(BaseModel):
    """Base of both outcomes. `duplicate`: the command id was seen before, and this is the first answer again."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    command_id: str
    command: str
    duplicate: bool = False


class EventReference(BaseModel):
    """An event that a command caused: its CloudEvents type and its sequence in the order."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str
    sequence: int


class CommandAccepted(Outcome):
    """The rules accepted the command. `events` are those that it caused, oldest first."""

    events: tuple[EventReference, ...]


class CommandRejected(Outcome):
    """`message` is a sentence for a person that says what to do instead; `details` depends on the code."""

    code: Code
    message: str
    details: dict[str, Any]


OUTCOMES: dict[str, type[Outcome]] = {outcome.__name__: outcome for outcome in Outcome.__subclasses__()}
