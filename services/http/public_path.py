"""Prefixes the links of pages with the path under which a proxy serves them."""

import re
from typing import Any

from jinja2 import Template

_LINK = re.compile(r'\b(href|src|action|data-[a-z-]+)="/')


class UnderPublicPath(Template):
    """Puts the public path before each link of a page, so that no template and no macro can forget it."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        """Renders the page with the public path before its links."""
        page, public_path = super().render(*args, **kwargs), self.globals["public_path"]
        return _LINK.sub(rf'\1="{public_path}/', page) if public_path else page
