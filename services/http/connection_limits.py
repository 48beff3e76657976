"""Connections that do not send or do not read: nobody else has to wait for them."""

import asyncio
import sys
from contextlib import suppress
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from . import problems
from .app import HEADERS

_MOST_CONNECTIONS = 1000
_SECONDS_TO_SEND = 30.0
"""For a complete request, from the connection's beginning or the last answer on."""
_SECONDS_TO_READ = 30.0
"""For some of an answer, once the buffers are full."""


class Connection(H11Protocol):
    """Closes a connection that does not send a complete request, or does not read its answer, in time.

    When there are too many connections, the one that has waited longest for its request is closed. Whoever sends at
    once gets an answer, however many others do not.
    """

    _waiting: ClassVar[dict["Connection", asyncio.TimerHandle]] = {}
    """Those whose request is not complete, the longest-waiting one first, and when they are closed."""
    _stalled: asyncio.TimerHandle | None = None
    """Ends a connection whose client does not read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Closes the connection that has waited longest, if there are too many."""
        super().connection_made(transport)
        self._note()
        if len(self.connections) > _MOST_CONNECTIONS:
            next(iter(self._waiting))._give_up()

    def data_received(self, data: bytes) -> None:
        """Notes whether the request is complete now."""
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        super().on_response_complete()
        self._note()

    def pause_writing(self) -> None:
        """Gives the client a time to read on."""
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._abort_not()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        super().connection_lost(exc)
        self._forget()
        self._abort_not()

    def shutdown(self) -> None:
        """Closes a connection whose request is not complete at once."""
        if self in self._waiting:
            self._give_up()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered like everything else."""
        error = sys.exc_info()[1]
        what = str(error).partition(": bytearray(")[0].removesuffix(".").removesuffix(":")  # without what was sent
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._refuse(status, f"{msg.removesuffix('.')}: {what}.")

    def _unsupported_upgrade_warning(self) -> None:
        """Nobody has to be told: such a request is answered without upgrading."""

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
        self._abort_not()
        self._stalled = self.loop.call_later(_SECONDS_TO_READ, self.transport.abort)

    def _abort_not(self) -> None:
        if self._stalled:
            self._stalled.cancel()
