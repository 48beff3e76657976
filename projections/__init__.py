"""The read models, each made from the events alone. Each has its own module."""

from typing import Any

from .framework.read_model import ReadModel
from .inbox import Inbox
from .metrics import Metrics
from .order_page import OrderPages
from .overview import Overview
from .reminders import Reminders

READ_MODELS: dict[str, type[ReadModel[Any]]] = {
    model.name: model for model in (OrderPages, Inbox, Metrics, Overview, Reminders)
}
"""Every read model by name."""
