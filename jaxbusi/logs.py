"""What a run writes while it runs: metrics.jsonl, TensorBoard events, a progress bar."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from jaxbusi import atomic
from jaxbusi.errors import UserError
from jaxbusi.events import EventFile

_T = TypeVar("_T")

Line = dict[str, Any]
"""One object of metrics.jsonl: step, epoch, part, loss, accuracy, precision, recall, and more."""


class RunLog:
    """metrics.jsonl and TensorBoard of one workdir, written by one process only."""

    def __init__(self, workdir: Path, *, resume_step: int, active: bool):
        """Opens both for appending.

        Args:
          workdir: where they lie.
          resume_step: the step that training goes on from; lines after it come from steps that
            will be taken again, and are dropped.
          active: False makes every method do nothing: the other processes of a cluster.

        Raises:
          UserError: the folder or the disk refuses.
        """
        self._path = workdir / "metrics.jsonl"
        self._events = None
        if active:
            kept = [line for line in read_history(workdir) if line["step"] <= resume_step]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            atomic.write_bytes(self._path, text.encode())
            with self._disk():
                self._events = EventFile(workdir / "tensorboard", purge_step=resume_step + 1)

    def write(self, *, step: int, epoch: float, part: str, values: dict[str, float]) -> None:
        """Adds one line to metrics.jsonl and its values to TensorBoard under `part/`.

        Raises:
          UserError: the disk refuses; a line that it took in part is passed over by readers.
        """
        if self._events is None:
            return
        line: Line = {"step": step, "epoch": epoch, "part": part}
        line |= {name: _finite(value) for name, value in values.items()}
        with self._disk():
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            for name, value in values.items():
                self._events.scalar(f"{part}/{name}", value, step)
            self._events.flush()

    def images(self, name: str, images: np.ndarray, step: int) -> None:
        """Adds uint8[N, H, W, 3] to TensorBoard as one picture, side by side.

        Raises:
          UserError: the disk refuses.
        """
        if self._events is not None:
            with self._disk():
                self._events.images(name, images, step)

    def close(self) -> None:
        """Flushes and closes the event file.

        Raises:
          UserError: the disk refuses.
        """
        if self._events is not None:
            with self._disk():
                self._events.close()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the log in {self._path.parent} cannot be written ({error.strerror or error}); "
                "the checkpoints are intact: free space or mend the folder and run the same "
                "command again"
            ) from error


def read_history(workdir: Path) -> list[Line]:
    """Returns the lines of metrics.jsonl; a last line that a crash cut short is left out.

    Raises:
      UserError: the file cannot be read; another line is not JSON; a line lacks the step, epoch or
        part, or holds something else than numbers beside them.
    """
    path = workdir / "metrics.jsonl"
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    history = []
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise UserError(f"{path} line {number} is not JSON; remove that line") from error
        if not _is_line(line):
            raise UserError(
                f"{path} line {number} does not hold step, epoch, part and numbers; remove it"
            )
        history.append(line)
    return history


def _is_line(line: Any) -> bool:
    """Whether a JSON value is what `RunLog.write` writes."""
    if not isinstance(line, dict) or {"step", "epoch", "part"} - line.keys():
        return False
    rest = [value for key, value in line.items() if key != "part"]
    return (
        isinstance(line["part"], str)
        and line["part"] != ""
        and type(line["step"]) is int
        and 0 <= line["step"] < 2**63
        and line["epoch"] is not None
        and all(value is None or type(value) in (int, float) for value in rest)
    )


def _finite(value: float) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None  # JSON has no NaN


def progress_bar(total: int, what: str, unit: str, *, start: int = 0, active: bool = True) -> tqdm:
    """Returns a bar on the standard error, or one that shows nothing where not `active`."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=start,
        desc=what,
        unit=unit,
        disable=not active,
        dynamic_ncols=terminal,
        # A file that collects the output gets a line now and then, not ten a second.
        mininterval=0.1 if terminal else 30.0,
        file=sys.stderr,
    )


class Progress:
    """A bar over optimizer steps with loss, learning rate, images a second and time left."""

    def __init__(self, *, total: int, start: int, batch_size: int, active: bool):
        """Starts the bar at step `start` of `total`."""
        self._bar = progress_bar(total, "training", "step", start=start, active=active)
        self._batch_size = batch_size
        self._last: tuple[float, int] | None = None
        self._rate = 0.0

    def update(self, *, step: int, loss: float, learning_rate: float) -> None:
        """Shows that `step` steps are done; loss is of the newest one that has ended."""
        now = time.monotonic()
        if self._last is None:  # the first step holds the compilation
            self._last = (now, step)
        elif now - self._last[0] > 1.0:
            self._rate = (step - self._last[1]) * self._batch_size / (now - self._last[0])
            self._last = (now, step)
        self._bar.set_postfix_str(
            f"loss {loss:.4f}, rate {learning_rate:.1e}, {self._rate:.1f} images/s", refresh=False
        )
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


class Pace:
    """How fast training went since a step, and what share of the time it waited for batches."""

    def __init__(self, step: int):
        """Begins to count at `step`."""
        self.restart(step)

    def restart(self, step: int) -> None:
        """Counts anew from `step`."""
        self._step, self._begun, self._waited = step, time.monotonic(), 0.0

    def count(self, batches: Iterable[_T]) -> Generator[_T]:
        """Yields the batches and counts how long each took to come."""
        iterator = iter(batches)
        while True:
            begun = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.monotonic() - begun
            yield batch

    def summary(self, step: int, batch_size: int) -> dict[str, float]:
        """Returns images a second and the share of the time that was waited, at `step`."""
        seconds = time.monotonic() - self._begun
        rate = (step - self._step) * batch_size / seconds
        return {"images_per_second": rate, "input_wait": self._waited / seconds}
