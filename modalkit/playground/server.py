"""The server of the page: one process, by default reachable from this machine only."""

from __future__ import annotations

import logging
import socket
import webbrowser
from contextlib import suppress

import uvicorn
from starlette.applications import Starlette

from modalkit.errors import InputError
from modalkit.inference import TrainedModel
from modalkit.playground.app import make_app
from modalkit.playground.connections import MOST_CONNECTIONS, Connection
from modalkit.playground.gate import is_loopback

_log = logging.getLogger(__name__)

_SECONDS_TO_END = 5


def serve(model: TrainedModel, host: str, port: int, *, browser: bool) -> None:
    """Serve a model's page until Ctrl-C.

    Args:
        model: the model.
        host: the name or address to listen at.
        port: the port to listen at; 0 takes a free one.
        browser: whether to open the page in the browser.

    Raises:
        InputError: the server cannot listen there.
    """
    with _listening(host, port) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
        app = make_app(model, host)
        if not is_loopback(host):
            _log.warning(
                f"anyone who can reach {host} can ask this model and see rows of its dataset; there is no password"
            )
        _log.info(f"{url} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(url)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has stopped
            make_server(app).run(sockets=[listener])
    _log.info("stopped")


def make_server(app: Starlette) -> uvicorn.Server:
    """Return a server of the page, whose connections do not keep each other out."""
    config = uvicorn.Config(
        app,
        http=Connection,
        log_level="warning",
        lifespan="off",
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS + 1,  # if all of them are being answered, the next one is refused
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    return uvicorn.Server(config)


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens at a host and port."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"--host {host}: {error.strerror}") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(MOST_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen at {host}, port {port}: {error.strerror}; --port 0 takes a free one") from None
    return listener
