"""The states of an order and of a dispute that ended."""

from enum import StrEnum

import msgspec
from resolution_contracts.values import Role, SettledAs


class Status(StrEnum):
    UNKNOWN = "unknown"
    AWAITING_REQUIREMENTS = "awaiting requirements"
    IN_PROGRESS = "in progress"
    DELIVERED = "delivered"
    COMPLETED = "completed"
    CANCELED = "canceled"


CLOSED = frozenset({Status.COMPLETED, Status.CANCELED})


class Settled(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a dispute that ended."""

    opened_by: Role
    settled_as: SettledAs
