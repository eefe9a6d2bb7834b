"""A served tiny run for tests: a real server in a thread of the test's process."""

import asyncio
import contextlib
import dataclasses
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from jaxbusi import familiarity
from jaxbusi.evaluation import figures
from jaxbusi.serve.app import Limits, make_app
from jaxbusi.serve.batching import Batcher
from jaxbusi.serve.limits import bind
from jaxbusi.serve.run import ServedRun
from jaxbusi.serve.server import Server, configure
from jaxbusi.train import train_and_evaluate
from tests.runs import make_config
from tests.tiny import tiny_fusion

LIMITS = Limits(bytes=1 << 20, per_minute=1_000_000, token=None, loopback=True)


def train_tiny(phantoms: Path, workdir: Path) -> None:
    """A run of two tiny branches with a validation part; call it within `tiny_fusion`."""
    config = make_config(phantoms, num_epochs=1.0, **{"data.validation_fraction": 0.2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(familiarity, "LEAST", 3)
        patch.setattr(figures, "write_all", lambda *_, **__: [])  # takes seconds
        train_and_evaluate(config, workdir)


def trained_once(factory: pytest.TempPathFactory, worker: str, phantoms: Path) -> Path:
    """The workdir of `train_tiny`, which the first process that asks trains for all of them.

    Not to be written to, which loading it does: load a copy.

    Args:
      factory: the fixture tmp_path_factory.
      worker: the fixture worker_id.
      phantoms: the fixture; every process draws the same.
    """
    own = factory.getbasetemp()
    shared = own if worker == "master" else own.parent
    trained = shared / "trained"
    with FileLock(shared / "trained.lock"):
        if not trained.exists():
            with tiny_fusion():
                train_tiny(phantoms, shared / "training")
            (shared / "training").rename(trained)
    return trained


@dataclasses.dataclass(frozen=True)
class Served:
    """A server that answers.

    Attributes:
      url: of the page.
      port: at 127.0.0.1.
      run: that it answers about.
    """

    url: str
    port: int
    run: ServedRun

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], Any]:
        """Sends one request: status, headers by their names in lower case, JSON or bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            verb = method or ("GET" if body is None else "POST")
            connection.request(verb, path, body, headers or {})
            answer = connection.getresponse()
            data = answer.read()
            found = {name.lower(): value for name, value in answer.getheaders()}
        is_json = found.get("content-type") == "application/json"
        return answer.status, found, json.loads(data) if is_json else data


@contextlib.contextmanager
def serving(run: ServedRun, limits: Limits = LIMITS) -> Iterator[Served]:
    """Serves a run at a free port while the block runs."""
    listener, _ = bind("127.0.0.1", 0, limits.token)
    batcher = Batcher(run.analyst.answer)
    server = Server(configure(make_app(run, batcher, limits)))
    work = server.serve(sockets=[listener])
    thread = threading.Thread(target=asyncio.run, args=(work,))
    with listener:
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = listener.getsockname()[1]
        try:
            yield Served(f"http://127.0.0.1:{port}/", port, run)
        finally:
            server.should_exit = True
            thread.join()
            batcher.close()


__all__ = ["LIMITS", "Served", "serving", "tiny_fusion", "train_tiny", "trained_once"]
