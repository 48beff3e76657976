"""Closes connections whose clients do not send or do not read, so that other clients need not wait for them."""

import asyncio
import re
import sys
from contextlib import suppress
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from . import problems
from .app import HEADERS

_MOST_CONNECTIONS = 1000
_SECONDS_TO_SEND = 30.0
"""The time to send a complete request, from the beginning of the connection or from the last response on."""
_SECONDS_TO_READ = 30.0
"""The time to read some of a response once the buffers are full."""
_MOST_HEADER_BYTES = 32_768
"""The size of a request's first line and headers, or of a body's trailers. deploy/nginx/ has buffers of this size."""
_absolute = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE).fullmatch


class _Requests(h11.Connection):
    """Refuses large headers however they arrive, and reads targets in absolute form (RFC 9112, 3.2.2).

    h11 itself limits only headers that are incomplete when it looks at them.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, _MOST_HEADER_BYTES)

    def next_event(self) -> Any:
        """Returns what h11 does. Raises h11.RemoteProtocolError for what is not HTTP or too large."""
        size = len(self._receive_buffer)
        event = super().next_event()
        if not isinstance(event, h11.Request | h11.EndOfMessage):
            return event
        if size - len(self._receive_buffer) > _MOST_HEADER_BYTES:
            raise h11.RemoteProtocolError("Headers too long", error_status_hint=431)
        return _in_origin_form(event) if isinstance(event, h11.Request) else event


def _in_origin_form(request: h11.Request) -> h11.Request:
    """Turns a target such as `http://host/path` into `/path`. Its host replaces the header Host."""
    if not (found := _absolute(request.target)):
        return request
    host, target = found.groups()
    headers = [(name, value) for name, value in request.headers if name != b"host"]
    return h11.Request(
        method=request.method,
        target=target if target.startswith(b"/") else b"/" + target,
        headers=[(b"host", host), *headers],
        http_version=request.http_version,
    )


class Connection(H11Protocol):
    """Closes a connection that does not send a complete request, or does not read its response, in time.

    When there are too many connections, the one that has waited longest for its request is closed. So a client that
    sends its request at once gets a response, however many others send nothing.
    """

    _waiting: ClassVar[dict["Connection", asyncio.TimerHandle]] = {}
    """Connections whose request is incomplete, the longest-waiting first, with the timers that close them."""
    _stalled: asyncio.TimerHandle | None = None
    """The timer that ends this connection if its client does not read."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.conn = _Requests()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Closes the connection that has waited longest, if there are too many."""
        super().connection_made(transport)
        self._note()
        if len(self.connections) > _MOST_CONNECTIONS:
            next(iter(self._waiting))._give_up()

    def data_received(self, data: bytes) -> None:
        """Starts or stops the timer, depending on whether the request is complete."""
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        super().on_response_complete()
        self._note()

    def pause_writing(self) -> None:
        """Starts the timer within which the client has to read."""
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        """Stops the timer, because the client reads again."""
        super().resume_writing()
        self._cancel_abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        super().connection_lost(exc)
        self._forget()
        self._cancel_abort()

    def shutdown(self) -> None:
        """Closes the connection, at once if its request is incomplete."""
        if self in self._waiting:
            self._give_up()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Answers bytes that aren't HTTP with problem details."""
        error = sys.exc_info()[1]
        what = str(error).partition(": bytearray(")[0].removesuffix(".").removesuffix(":")  # without the client's bytes
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        detail = f"{msg.removesuffix('.')}: {what}."
        if status == 431:
            detail = (
                f"The headers have more than {_MOST_HEADER_BYTES} bytes: send less, such as fewer or smaller cookies."
            )
        self._refuse(status, detail)

    def _unsupported_upgrade_warning(self) -> None:
        """Logs nothing: such a request is answered without upgrading."""

    def _note(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._forget()
        elif self not in self._waiting and not self.transport.is_closing():
            self._waiting[self] = self.loop.call_later(_SECONDS_TO_SEND, self._give_up)

    def _forget(self) -> None:
        if timer := self._waiting.pop(self, None):
            timer.cancel()

    def _give_up(self) -> None:
        has_begun = self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]
        if has_begun:
            self._refuse(408, f"Send a complete request within {_SECONDS_TO_SEND:.0f} seconds.")
        else:
            self._end()

    def _refuse(self, status: int, detail: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = problems.answer(status, detail, HEADERS | {"Cache-Control": "no-store", "Connection": "close"})
            with suppress(h11.LocalProtocolError):  # an answer to HEAD has no body
                self.transport.write(self.conn.send(h11.Response(status_code=status, headers=answer.raw_headers)))
                self.transport.write(self.conn.send(h11.Data(bytes(answer.body))))
                self.transport.write(self.conn.send(h11.EndOfMessage()))
        self._end()

    def _end(self) -> None:
        if self.cycle:
            self.cycle.disconnected = True
        self._forget()
        self.transport.close()  # once the client has read the rest
        self._abort_later()

    def _abort_later(self) -> None:
        self._cancel_abort()
        self._stalled = self.loop.call_later(_SECONDS_TO_READ, self.transport.abort)

    def _cancel_abort(self) -> None:
        if self._stalled:
            self._stalled.cancel()
