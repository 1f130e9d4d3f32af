"""Checks of every request, by origin, size and speed, and security headers of every answer."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 32 << 20
"""The maximum size of one request, with all its uploads."""

SECONDS_TO_BEGIN, LEAST_RATE = 2.0, 64 << 10
"""A body is refused once it has taken more seconds than these and what it holds at this rate, in bytes a second."""

_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Gate:
    """Refuses requests of other sites, and ones that are too large or slow, and adds strict headers to every answer.

    Another site could let its own name point to this machine (DNS rebinding) and so read the server's answers. Its
    requests carry that name as their host, so the gate lets only names of this machine and addresses pass. A request
    that a page of another site sends directly carries that site's origin, and is refused as well.

    Args:
        app: the application behind the gate.
        host: the name or address that the server listens at.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app, self.host = app, host
        self.names = {host.lower(), "localhost"}
        if not is_loopback(host):
            self.names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request and pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, received, more, begin = Headers(scope=scope), 0, True, 0.0

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        async def limited() -> Message:
            nonlocal received, more, begin
            if not more:  # waits until the client is gone
                return await receive()
            begin = begin or anyio.current_time()
            with anyio.CancelScope(deadline=begin + SECONDS_TO_BEGIN + received / LEAST_RATE) as waiting:
                message = await receive()
            if waiting.cancelled_caught:
                raise HTTPException(408, TOO_SLOW)
            received, more = received + len(message.get("body", b"")), message.get("more_body", False)
            if received > MOST_BYTES:
                raise HTTPException(413, _TOO_LARGE)
            return message

        if refused := self._refusal(headers):
            await JSONResponse({"error": refused[1]}, refused[0])(scope, receive, with_headers)
        else:
            await self.app(scope, limited, with_headers)

    def _refusal(self, headers: Headers) -> tuple[int, str] | None:
        """Return the status and the reason if a request is refused, else None."""
        host = headers.get("host", "")
        if not self._is_here(host):
            return 421, f"this server does not answer for the host '{host[:100]}'; open the address that it printed"
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return 403, "a page of another origin may not ask this server"
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MOST_BYTES:
            return 413, _TOO_LARGE
        return None

    def _is_here(self, host: str) -> bool:
        """Tell whether a request's host is a name or address of this machine."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)  # a rebound name is not an address
        except ValueError:
            return False
        return address.is_loopback or not is_loopback(self.host)


def _netloc(origin: str) -> str | None:
    """Return the host and port of an origin in lower case, or None if it is not a URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


TOO_SLOW = "the request took too long to arrive"
_TOO_LARGE = f"too much at once; all uploads together may have {MOST_BYTES >> 20} MiB"


def is_loopback(host: str) -> bool:
    """Tell whether a server that listens at this name or address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
