"""A training that is killed again and again ends as one that nobody touched, bit for bit."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxbusi.checkpoints import Checkpoints
from jaxbusi.logs import read_history
from jaxbusi.state import abstract_variables, make_mesh
from tests.runs import FULL_CAMPAIGN, read
from tests.tiny import TinyModel

ROOT = Path(__file__).parents[1]
KILLS = 50 if FULL_CAMPAIGN else 2
STEPS = 48


def command(root, workdir):
    """48 steps, a checkpoint after each: most of the time something is saved or deleted."""
    return [
        *(sys.executable, "-m", "tests.cluster_worker", "main"),
        "--config=configs/fusion.py",
        f"--workdir={workdir}",
        f"--config.data.root={root}",
        "--config.num_epochs=8",
        "--config.batch_size=8",
        "--config.data.copies=2",
        "--config.data.augment.resize=18",
        "--config.data.augment.crop=16",
        "--config.checkpoint.every_epochs=0.1666",
        "--config.eval_every_epochs=2",
    ]


class Program:
    """A command under way, whose output is watched for the start of training."""

    def __init__(self, words):
        self.process = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.output = b""
        self._training = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        while chunk := os.read(self.process.stdout.fileno(), 4096):
            self.output += chunk
            if b"training:" in self.output:
                self._training.set()
        self._training.set()

    def signal_after(self, seconds, number):
        """Sends a signal some time after training began; returns whether it was in time."""
        assert self._training.wait(timeout=400)
        time.sleep(seconds)
        alive = self.process.poll() is None
        self.process.send_signal(number)
        return alive

    def end(self):
        """Waits for the end; returns the status."""
        try:
            return self.process.wait(timeout=400)
        finally:
            self.process.kill()
            self._reader.join()
            self.process.stdout.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, phantoms):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    program = Program(command(phantoms, workdir))
    assert program.end() == 0, program.output.decode()
    return workdir


def assert_identical(workdir, other):
    like = abstract_variables(TinyModel(), make_mesh(), image_size=16)
    states = []
    for folder in (workdir, other):
        checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
        step, state = checkpoints.newest(functools.partial(checkpoints.restore_variables, like))
        checkpoints.close()
        assert step == STEPS
        states.append(state)
    for x, y in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(x, y)
    for name in ("predictions_test.csv", "split.csv"):
        assert (workdir / name).read_bytes() == (other / name).read_bytes()
    results = [json.loads((folder / "results.json").read_text()) for folder in (workdir, other)]
    assert results[0] == results[1]
    assert read(read_history(workdir)) == read(read_history(other))


@pytest.mark.fault("SIGKILL at a random moment of a training")
def test_killed_at_random_moments(tmp_path, phantoms, undisturbed, record_property):
    moments = random.Random(0)
    kills, trainings, unfinished = 0, 0, 0
    while kills < KILLS:
        trainings += 1
        workdir = tmp_path / f"run{trainings}"
        while True:
            program = Program(command(phantoms, workdir))
            wanted = kills < KILLS and program.signal_after(moments.uniform(0, 2.5), signal.SIGKILL)
            status = program.end()
            assert status in (0, -9), program.output.decode()
            if status == 0:
                break
            assert wanted
            kills += 1
            folders = [path.name for path in (workdir / "checkpoints").glob("*")]
            unfinished += any("tmp" in name for name in folders)
        assert_identical(workdir, undisturbed)
    record_property("tried", kills)
    record_property("note", f"{trainings} trainings; {unfinished} kills in the middle of a save")


@pytest.mark.fault("SIGTERM: saves and exits 143 within 30 s")
def test_told_to_stop(tmp_path, phantoms, undisturbed, record_property):
    moments = random.Random(1)
    for number in range(5 if FULL_CAMPAIGN else 1):
        workdir = tmp_path / f"run{number}"
        program = Program(command(phantoms, workdir))
        assert program.signal_after(moments.uniform(0, 1.0), signal.SIGTERM)
        begun = time.monotonic()
        assert program.end() == 143, program.output.decode()
        assert time.monotonic() - begun < 30
        assert b"stopped by SIGTERM after saving step" in program.output
        program = Program(command(phantoms, workdir))
        assert program.end() == 0, program.output.decode()
        assert_identical(workdir, undisturbed)
    record_property("tried", number + 1)
