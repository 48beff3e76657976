"""The notifications on `resolution.notifications`, which other services pass on to a person."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from .values import DisputeKind, Id, PublishedInstant, Role


class _Reminder(BaseModel):
    model_config = ConfigDict(frozen=True)

    dispute_id: Id
    kind: DisputeKind
    recipient: Id
    role: Role
    respond_by: PublishedInstant


class DisputeReminder(_Reminder):
    """A request waits for the recipient's answer. Without an answer it is accepted at `respond_by` (R3).

    Under terms that leave another time to answer, a reminder is a `DisputeReminder.v2`.
    """

    hours_before: Literal[24, 2]


class DisputeReminderV2(_Reminder):
    """A request waits for the recipient's answer. Without an answer it is accepted at `respond_by` (R3).

    The first reminder is due when half of the time to answer is left, the last one when one twenty-fourth is left. If
    these are 24 and 2 hours, they are a `DisputeReminder.v1` instead.
    """

    reminder: Literal["first", "last"]
    seconds_before: Annotated[int, Field(ge=1)]
