"""Connections to the page: those that ask nothing are closed, so that they do not keep others out."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 256
"""The maximum number of connections at a time. A new one closes the one that has asked nothing for longest."""
SECONDS_TO_ASK = 10.0
"""A connection is closed if no whole request head arrives for so long."""


class Connection(H11Protocol):
    """One connection. uvicorn alone closes none that has never asked, and refuses all others if there are too many."""

    _since = 0.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Begin to wait for a request; if there are too many connections, close the one that has waited longest."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > MOST_CONNECTIONS:
            waiting = [one for one in self.connections if isinstance(one, Connection) and one is not self and one.waits]
            if waiting:
                min(waiting, key=lambda one: one._since)._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._wait()

    @property
    def waits(self) -> bool:
        """Whether no request is being read or answered."""
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._since = self.loop.time()
        self._timer = self.loop.call_later(SECONDS_TO_ASK, self._close_if_waiting)

    def _close_if_waiting(self) -> None:
        if self.waits:
            self._close()

    def _close(self) -> None:
        self.connections.discard(self)  # now, because many connections can arrive before this one is lost
        self.transport.close()
