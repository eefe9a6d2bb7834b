"""Reads damaged inputs in a process of its own, under limits of time and memory."""

import dataclasses
import logging
import multiprocessing
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from jaxbusi.errors import UserError
from scripts.fuzz_readers import READERS

SECONDS = 5.0
"""The longest that an input may take."""

GIB = 2.0
"""The most memory that an input may ask for."""

_START_SECONDS = 120.0
_LONGEST_MESSAGE = 10_000
_CURRENT = "current"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
      number: of the input.
      verdict: 'accepted', 'refused', or what is wrong with how it ended.
      seconds: by the clock.
      gib: the most memory that was held for it, beyond what was held before.
      data: the input, of a finding.
    """

    number: int
    verdict: str
    seconds: float
    gib: float
    data: bytes = b""

    @property
    def is_finding(self) -> bool:
        """Whether it ended in another way than it may."""
        return self.verdict not in ("accepted", "refused")


def watch(reader: str, seed: int, numbers: range) -> Iterator[Outcome]:
    """Reads inputs one after the other in other processes; a new one where one was lost."""
    next_ = numbers.start
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        while next_ < numbers.stop:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(theirs, reader, seed, range(next_, numbers.stop), Path(folder)),
                daemon=True,
            )
            process.start()
            theirs.close()
            try:
                for outcome in _outcomes(ours, process):
                    yield outcome
                    next_ = outcome.number + 1
            except _Lost as lost:
                data = Path(folder, _CURRENT).read_bytes()
                yield Outcome(next_, str(lost), 0.0, 0.0, data)
                next_ += 1
            finally:
                process.kill()
                process.join()


class _Lost(Exception):  # noqa: N818 - an end, not an error of ours
    """The process is of no more use."""


def _outcomes(ours: Connection, process: multiprocessing.process.BaseProcess) -> Iterator[Outcome]:
    """What the process sends until it has read all its inputs."""
    if not ours.poll(_START_SECONDS):
        raise TimeoutError("a process did not start")
    while True:
        try:
            received = ours.recv()
        except EOFError:
            process.join()
            raise _Lost(f"ends the process with status {process.exitcode}") from None
        if received is None:
            return
        if isinstance(received, Outcome):
            yield received
        if not ours.poll(2 * SECONDS):
            raise _Lost(f"hangs: no end after {2 * SECONDS:g} s")


def _serve(connection: Connection, name: str, seed: int, numbers: range, folder: Path) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", DeprecationWarning)  # of libraries among themselves
    logging.disable()
    # What a reader or a library says of an input is thousands of lines that nobody reads.
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        judge = Judge(name, Path(inner))
        judge.limit_memory()
        connection.send("ready")
        for number in numbers:
            data = judge.data(seed, number)
            (folder / _CURRENT).write_bytes(data)
            connection.send(judge.read(data, number))
    connection.send(None)


class Judge:
    """Feeds one reader and judges how each input ends."""

    def __init__(self, name: str, folder: Path):
        """Makes the seeds and reads each once."""
        self._reader = READERS[name]
        self._folder = folder
        self._reader.prepare(folder)
        self._seeds = self._reader.seeds(folder)
        refused = []
        for data in self._seeds:
            try:
                self._reader.read(data, folder)
            except UserError as error:  # some show a refusal, as float pixels do
                refused.append(error)
        if 2 * len(refused) > len(self._seeds):
            raise RuntimeError(f"the seeds of {name} are refused") from refused[0]

    def data(self, seed: int, number: int) -> bytes:
        """The input of this number."""
        return self._reader.input(self._seeds, seed, number)

    def read(self, data: bytes, number: int = 0) -> Outcome:
        """Reads an input."""
        before = _memory(reset=True)
        start = time.monotonic()
        try:
            self._reader.read(data, self._folder)
            verdict = "accepted"
        except UserError as error:
            verdict = _judge_refusal(error)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            verdict = _said(error)
        seconds, gib = time.monotonic() - start, (_memory() - before) / 2**20
        if gib > GIB:
            verdict = f"takes {gib:.1f} GiB"
        elif seconds > SECONDS:
            verdict = f"takes {seconds:.1f} s"
        outcome = Outcome(number, verdict, seconds, gib)
        return dataclasses.replace(outcome, data=data) if outcome.is_finding else outcome

    @staticmethod
    def limit_memory() -> None:
        """Lets this process ask for twice what is allowed: the machine outlives what wants more."""
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = now + int(2 * GIB * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _memory(*, reset: bool = False) -> int:
    """The most memory held since the last reset, KiB; or what is held now, and a new start."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _judge_refusal(error: UserError) -> str:
    """'refused', if in one line that a person can read, and not because memory ran out."""
    message, cause = str(error), error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return f"asks for too much memory, and says: {message[:200]!r}"
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    if not message.strip() or len(message.splitlines()) > 1:
        return f"refuses in {len(message.splitlines())} lines: {message[:200]!r}"
    if not message.isprintable():
        return f"refuses with what a terminal obeys: {message[:300]!r}"
    if len(message) > _LONGEST_MESSAGE:
        return f"refuses in {len(message)} characters: {message[:100]!r}"
    return "refused"


def _said(error: BaseException) -> str:
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    ours = [f"{Path(name).name}:{line}" for name, line in frames if "jaxbusi/" in name] or ["?"]
    return f"{type(error).__name__} at {ours[-1]}: {' '.join(str(error).split())[:200]}"
