"""What whole runs take: to the first step, an epoch, a checkpoint, and divided over devices."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scripts.workers import Made

_STEPS = 4  # an epoch
_LONGEST = 600.0  # seconds to wait for a line of a run's log
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs of the paper's config on synthetic images.

    Attributes:
      folder: for images, workdirs and compiled programs.
      batch: images a step.
      options: more flags.
    """

    folder: Path
    batch: int
    options: tuple[str, ...] = ()

    def measure(self) -> tuple[list[Row], list[Row]]:
        """Starts twice, without and with kept programs, and goes on for an epoch.

        Returns:
          Rows of the seconds from the command to the end of the first step; and one row of the
          images a second and the share of waiting for input of the steps that follow.
        """
        starts = []
        for name in ("cold", "kept programs"):
            with self._run(name) as wait:
                starts.append({"start": name, "seconds": wait(1)[1]})
                if name != "cold":
                    lines = wait(_STEPS + 1)[0][1:]
        epoch = {
            "images/s": statistics.harmonic_mean([line["images_per_second"] for line in lines]),
            "input wait": statistics.mean([line["input_wait"] for line in lines]),
        }
        return starts, [epoch]

    @contextmanager
    def _run(self, name: str) -> Iterator[Any]:
        """Starts a run; gives what waits for so many training lines and says when they came."""
        from jaxbusi.data.phantoms import write_phantoms

        images = self.folder / "images"
        if not images.exists():
            write_phantoms(images, count=5 * self.batch, seed=0)  # split 8:2
        workdir = self.folder / name
        command = [sys.executable, "-m", "jaxbusi.main", "--config", "configs/fusion.py"]
        command += [f"--workdir={workdir}", f"--config.data.root={images}"]
        # An epoch is a little over four steps: a line of the log after each.
        command += [f"--config.batch_size={self.batch}", "--config.num_epochs=2"]
        command += ["--config.eval_every_epochs=0.2", "--config.data.copies=1"]
        command += self.options
        kept = {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled")}
        log = self.folder / f"{name}.log"
        begun = time.perf_counter()
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=os.environ | kept, stdout=file, stderr=file)

        def wait(count: int) -> tuple[list[Row], float]:
            while time.perf_counter() - begun < _LONGEST:
                lines = _training_lines(workdir / "metrics.jsonl")
                if len(lines) >= count:
                    return lines, time.perf_counter() - begun
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended:\n{log.read_text()[-2000:]}")
                time.sleep(0.05)
            raise RuntimeError(f"{' '.join(command)} took more than {_LONGEST:.0f} s")

        try:
            yield wait
        finally:
            process.kill()
            process.wait()


def _training_lines(path: Path) -> list[Row]:
    if not path.exists():
        return []
    whole = path.read_text().split("\n")[:-1]  # the last one may be half written
    return [line for line in map(json.loads, whole) if line["part"] == "train"]


def checkpoint() -> Made:
    """Saves the fusion's state: how long that holds up training, and takes in all."""
    import jax
    import jax.numpy as jnp

    from jaxbusi.checkpoints import Checkpoints
    from scripts import benchmark_steps as steps

    state = steps.state_of(steps.MODELS["fusion"])
    stalls, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder) / "checkpoints")
        for step in (1, 2):
            state = dataclasses.replace(state, step=jnp.int32(step))
            jax.block_until_ready(state)
            begun = time.perf_counter()
            checkpoints.save(state)
            stalls.append(time.perf_counter() - begun)
            checkpoints.wait()
            whole.append(time.perf_counter() - begun)
        checkpoints.close()
    return (lambda: None), {"stall s": min(stalls), "whole s": min(whole)}


def devices() -> Made:
    """Divides the same batches over 1, 2, 4 and 8 devices, simulated where there are too few.

    Returns:
      For each number the largest relative difference of an image's loss, and of the gradient's
      norm, from those of one device, in a training step.
    """
    import jax

    from jaxbusi.models.fusion import Classifier
    from jaxbusi.models.vit import ViTSize
    from jaxbusi.state import batch_sharding, make_mesh
    from scripts import benchmark_steps as steps

    model = Classifier(vit=ViTSize(patch=16, width=64, depth=2, heads=2, mlp=128))
    found: dict[int, Any] = {}
    for count in (1, 2, 4, 8):
        mesh = make_mesh(jax.devices()[:count])
        images, labels = steps.example(16, side=64)
        batch = jax.device_put({"image": images, "label": labels}, batch_sharding(mesh))
        state = steps.state_of(model, side=64, mesh=mesh)
        found[count] = jax.device_get(steps.train_program(model)(state, batch)[1])
    rows = [
        {
            "devices": count,
            "loss off": _furthest(report, found[1], "example_loss"),
            "gradient norm off": _furthest(report, found[1], "gradient_norm"),
        }
        for count, report in found.items()
    ]
    return (lambda: None), {"rows": rows}


def _furthest(report: Any, other: Any, name: str) -> float:
    """The largest relative difference of a value of two reports."""
    return float(np.max(np.abs(getattr(report, name) / getattr(other, name) - 1)))
