"""A served run at an address, until a signal ends it."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Generator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from jaxbusi.errors import Interrupted
from jaxbusi.serve.app import Limits, make_app
from jaxbusi.serve.batching import Batcher
from jaxbusi.serve.connections import Connection
from jaxbusi.serve.limits import bind, check_secret
from jaxbusi.serve.loading import load

TOKEN = "JAXBUSI_TOKEN"
"""The environment variable with the token: a command line can be read by everybody."""

_CONNECTIONS = 100
_SECONDS_TO_END = 10


class Server(uvicorn.Server):
    """Leaves signals to `_until_signal`: uvicorn would end the process by itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Does nothing."""
        yield


def configure(app: ASGIApp) -> uvicorn.Config:
    """How the application is served."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        proxy_headers=False,  # anybody could write there whom the limit of the rate is to count
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )


def serve(workdir: Path, host: str, port: int, *, megabytes: int, per_minute: int) -> None:
    """Answers requests about a run; returns never.

    Args:
      workdir: a folder that `python -m jaxbusi.main` wrote.
      host: the address to listen at.
      port: 0 for any that is free.
      megabytes: of a file, at most (2**20 bytes).
      per_minute: requests of one address, at most.

    Raises:
      UserError: bad input or settings.
      Interrupted: SIGTERM or SIGINT arrived.
    """
    token = check_secret(os.environ.get(TOKEN))
    listener, loopback = bind(host, port, token)  # a taken port is known before minutes of loading
    with listener:
        try:
            run = load(workdir)
        except KeyboardInterrupt:
            raise Interrupted(signal.SIGINT, "it was not ready to answer yet") from None
        batcher = Batcher(run.analyst.answer)
        limits = Limits(megabytes << 20, per_minute, token, loopback)
        app = make_app(run, batcher, limits)
        words = f"open {_url(listener, token)} (Ctrl+C ends it)"
        received = asyncio.run(_until_signal(Server(configure(app)), listener, words))
        batcher.close()
    raise Interrupted(received, "nothing that was sent is kept")


async def _until_signal(server: Server, listener: socket.socket, words: str) -> int:
    """Answers until a signal comes, which it returns; what is under way is finished first.

    `words` are printed when requests and signals are listened to.
    """
    received: list[int] = []

    def stop(number: int) -> None:
        # A second one, to who does not want to wait, ends what is under way.
        server.force_exit = bool(received)
        server.should_exit = True
        received.append(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    listener.listen(_CONNECTIONS)
    print(words, flush=True)
    await server.serve(sockets=[listener])
    return received[0] if received else signal.SIGTERM


def _url(listener: socket.socket, token: str | None) -> str:
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + ("" if token is None else "#token=…")
