"""Order ids in the URLs of pages and API.

Browsers, HTTP clients and proxies resolve the path segments `.` and `..` before they send a request. Both are valid
order ids, so URLs have them with a tilde before, which no order id contains: `/orders/~..`.
"""

from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator
from resolution_contracts.values import ORDER_ID

_RESOLVED = {".", ".."}


def in_address(order_id: str) -> str:
    """Returns the path segment that stands for an order."""
    return f"~{order_id}" if order_id in _RESOLVED else order_id


def _from_address(segment: str) -> str:
    return segment.removeprefix("~")


OrderId = Annotated[str, Path(pattern=rf"^(~\.{{1,2}}|{ORDER_ID})$"), AfterValidator(_from_address)]
"""The order that a path segment stands for."""
