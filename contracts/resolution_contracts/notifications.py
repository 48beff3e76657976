"""The notifications on `resolution.notifications`, which other services pass on to a person."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from .values import DisputeKind, Id, Instant, Role


class DisputeReminder(BaseModel):
    """A request waits for the recipient's answer. Without an answer it is accepted at `respond_by` (R3)."""

    model_config = ConfigDict(frozen=True)

    dispute_id: Id
    kind: DisputeKind
    recipient: Id
    role: Role
    respond_by: Instant
    hours_before: Literal[24, 2]
