"""One process of a cluster, as the commands start it, with the tiny model.

    python -m tests.cluster_worker main|study [flags of that command …]

The environment says what befalls it: STOP_AT=5 sends SIGTERM to itself after step 5, KILL_AT=5
SIGKILL; HEARTBEAT_SECONDS=8 shortens the time after which a silent process is taken for dead.
"""

import importlib
import os
import signal
import sys

from absl import app

from jaxbusi import cluster, loop, train
from tests.tiny import TinyModel


def run() -> None:
    name, *arguments = sys.argv[1:]
    module = importlib.import_module(f"jaxbusi.{name}")
    train.build_model = lambda *_: TinyModel(dropout=0.3)
    if name == "study":
        importlib.import_module("jaxbusi.campaign").build_model = train.build_model
    cluster.HEARTBEAT_SECONDS = int(os.environ.get("HEARTBEAT_SECONDS", "30"))
    update = loop.Progress.update

    def watched(self, *, step, **values):
        update(self, step=step, **values)
        for key, number in (("STOP_AT", signal.SIGTERM), ("KILL_AT", signal.SIGKILL)):
            if step == int(os.environ.get(key, "0")):
                os.kill(os.getpid(), number)

    loop.Progress.update = watched
    app.run(module.main, argv=[f"jaxbusi.{name}", *arguments], flags_parser=module._parse_flags)


if __name__ == "__main__":
    run()
