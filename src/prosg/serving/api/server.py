"""Running the application: the socket, and an end in which running answers are finished."""

from __future__ import annotations

import logging
import math
import signal
import socket
import threading
from types import FrameType
from typing import Any

import uvicorn

from prosg.serving.api.app import make_app
from prosg.serving.api.service import Service

__all__ = ["listen", "serve"]

MOST_CONNECTIONS = 4096
KEEP_ALIVE = 75
"""Seconds that a connection may idle: longer than clients and proxies keep theirs, commonly 5 to 60. Else a request
can meet a connection that is just being closed."""
SAYING_SECONDS = 3
"""In which answers that are cancelled when `drain` is over can say so."""
log = logging.getLogger("prosg.serve")


class _Server(uvicorn.Server):
    """uvicorn's server, which says that it is about to end as soon as it is told to."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._service.draining:
            self._service.draining = True
            # It cancels what has not ended before uvicorn gives up the connections, so that clients are told.
            stopping = threading.Thread(
                target=self._service.engine.stop, args=(self._service.options.drain,), daemon=True
            )
            stopping.start()
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """Opens the server's socket; port 0 takes a free one.

    Raises:
        ValueError: for an address that cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ValueError(f"--host {host} --port {port} cannot be had ({error.strerror}); give another") from None
    return listener


def serve(service: Service, listener: socket.socket) -> None:
    """Serves until SIGTERM or Ctrl-C; then no request begins, and those that run have `drain` seconds to end."""
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(service.options.drain) + SAYING_SECONDS,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        _Server(config, service).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(*_: Any) -> None:
    """Does nothing: uvicorn raises the signal again when all is done, and the command has more to tidy up."""
