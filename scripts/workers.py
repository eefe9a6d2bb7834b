"""Times ways of doing the same work in turn, each in a process of its own.

In one process two frameworks disturb each other: the memory that one keeps, and its threads that
wait for work, cost the other up to a third of its speed. Here each has a process that sleeps while
the other works.
"""

import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Made = tuple[Callable[[], object], dict[str, Any]]
"""A piece of work that ends before it returns, and facts about it."""


class Worker:
    """A process that makes a piece of work and does it when told."""

    def __init__(self, make: Callable[..., Made]):
        """Starts the process; `make`, a function of a module, is called there."""
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make), daemon=True)
        self._process.start()
        other.close()

    def prepare(self, **arguments: Any) -> dict[str, Any]:
        """Makes the work from the arguments, does it once and returns its facts."""
        return self._ask(("prepare", arguments))

    def run(self) -> float:
        """Does the work twice and returns the seconds of the second time.

        After a pause the system has taken back memory that the process had freed, and the first
        step waits for it, by a third of its time on a virtual machine: no step of a training does.
        """
        return self._ask(("run", {}))

    def peak(self) -> float | None:
        """The most memory, GiB, that the process held at a time; None where not known."""
        return self._ask(("peak", {}))

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()

    def _ask(self, question: tuple[str, dict[str, Any]]) -> Any:
        self._connection.send(question)
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(connection: Connection, make: Callable[..., Made]) -> None:
    work: Callable[[], object] = lambda: None  # noqa: E731
    while True:
        try:
            question, arguments = connection.recv()
        except EOFError:
            return
        answer: Any
        try:
            if question == "prepare":
                work, answer = make(**arguments)
                work()
            elif question == "run":
                work()
                start = time.perf_counter()
                work()
                answer = time.perf_counter() - start
            else:
                answer = _peak()
        except Exception as error:
            answer = error
        connection.send(answer)


def _peak() -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return next((int(kib) / 2**20 for kib in found), None)


@dataclasses.dataclass(frozen=True)
class Timings:
    """What several ways of doing the same took.

    Attributes:
      seconds: of each way, one value a round.
    """

    seconds: Mapping[str, list[float]]

    def median(self, way: str) -> float:
        """Seconds by the clock."""
        return statistics.median(self.seconds[way])

    def lead(self, way: str, over: str) -> float:
        """How many times as fast as another way, the median over the rounds."""
        pairs = zip(self.seconds[over], self.seconds[way], strict=True)
        return statistics.median(other / own for other, own in pairs)


def in_turn(ways: Mapping[str, Callable[[], float]], rounds: int) -> Timings:
    """Times each way once a round, A B A B.

    Args:
      ways: each returns the seconds that it took.
      rounds: how many.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            seconds[name].append(run())
    return Timings(seconds)
