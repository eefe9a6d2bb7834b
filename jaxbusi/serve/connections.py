"""Connections that ask for nothing, or do not take their answer, and hold the place of others."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 30.0
"""For which a connection may be open without a request that is being answered."""


class Connection(H11Protocol):
    """One that is hung up on in time: uvicorn waits without end for a request that has begun.

    Few may be open at a time, so that who opens them and is silent would lock everybody out. The
    time runs while the headers of a request come, and while the answer to the last one is fetched.
    A request that is being answered is not hurried here; see `limits.read_body` for its body.
    """

    _hang_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the time."""
        super().connection_lost(exc)
        self._stop()

    def data_received(self, data: bytes) -> None:
        """Stops the time where a request begins with these bytes."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Starts the time again, where no other request waits on this connection."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._hang_up is None:
            self._hang_up = self.loop.call_later(SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._hang_up is not None:
            self._hang_up.cancel()
            self._hang_up = None
