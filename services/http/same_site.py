"""Refuses forms of other sites, which a browser would send with the viewer's cookie."""

import logging

from fastapi import Request

from .problems import Problem

log = logging.getLogger(__name__)


async def same_site(request: Request) -> None:
    """Raises Problem (403) for a form of another site.

    Browsers say in `Sec-Fetch-Site` where a form comes from, and no page can change that header. They send it only over
    HTTPS and to loopback. Elsewhere `Origin` has to be the public URL's, or the Host's if no public URL is configured.
    Programs send neither header.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site in ("same-origin", "none"):
        return
    if site is None and (origin is None or origin == _own_origin(request, origin)):
        return
    log.info("refused a form: its Sec-Fetch-Site is %r, its Origin %r", site, origin)
    raise Problem(403, "This form was sent from another site: open the page here, and send it from there.")


def _own_origin(request: Request, origin: str) -> str:
    configured: str | None = request.app.state.public_origin
    return configured or f"{origin.partition('://')[0]}://{request.headers.get('host')}"
