"""Feeds every reader with damaged and hostile files, and says which of them ends badly.

    python scripts/fuzz.py                                  # 20,000 inputs, some minutes
    python scripts/fuzz.py --count 2000 --readers png torch
    python scripts/fuzz.py --replay findings/png-1234.bin

An input has to end within 5 s and 2 GiB, accepted or refused in one line (`UserError`). Every other
end is a finding: its file is kept and can be replayed. Exit status 1: there are findings.
"""

import argparse
import collections
import json
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # In place of the folder of scripts, whose profile.py would hide Python's own.
    sys.path[0] = str(Path(__file__).parents[1])

from jaxbusi.data.store import usable_cores
from scripts.fuzz_readers import READERS
from scripts.fuzz_watch import Judge, Outcome, watch

_AT_A_TIME = 400
"""Inputs that a process reads: enough to make its start cheap."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=20_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other inputs")
    parser.add_argument("--readers", nargs="+", choices=list(READERS), default=list(READERS))
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes at a time")
    parser.add_argument(
        "--out", type=Path, default=Path("findings"), help="where findings are kept"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="read one kept input again")
    options = parser.parse_args(arguments)
    if options.replay:
        return replay(options.replay)
    start = time.monotonic()
    outcomes = run(options.readers, options.count, options.seed, options.workers)
    found = {name: [o for o in all_ if o.is_finding] for name, all_ in outcomes.items()}
    for name, findings in found.items():
        keep(name, findings, options.seed, options.out)
    print(table(outcomes))
    total = sum(map(len, found.values()))
    minutes = (time.monotonic() - start) / 60
    print(
        f"\n{total} findings, seed {options.seed}, {minutes:.1f} minutes, "
        f"{options.workers} processes"
    )
    for name, findings in found.items():
        for verdict, count in collections.Counter(o.verdict for o in findings).most_common(20):
            number = next(o.number for o in findings if o.verdict == verdict)
            print(f"  {count} x {options.out}/{name}-{number}.bin {verdict}")
    return 1 if total else 0


def run(readers: Sequence[str], count: int, seed: int, workers: int) -> dict[str, list[Outcome]]:
    """Reads `count` inputs, shared out over the readers, in several processes at a time."""
    shares = {name: READERS[name].share for name in readers}
    work: queue.SimpleQueue[tuple[str, range]] = queue.SimpleQueue()
    for name, share in sorted(shares.items(), key=lambda item: READERS[item[0]].share):
        most = max(1, round(count * share / sum(shares.values())))
        for first in range(0, most, _AT_A_TIME):
            work.put((name, range(first, min(most, first + _AT_A_TIME))))
    outcomes: dict[str, list[Outcome]] = {name: [] for name in readers}

    def serve() -> None:
        while True:
            try:
                name, numbers = work.get_nowait()
            except queue.Empty:
                return
            outcomes[name].extend(watch(name, seed, numbers))

    threads = [threading.Thread(target=serve) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def keep(name: str, findings: Sequence[Outcome], seed: int, out: Path) -> None:
    """Writes the inputs that ended badly, and beside each how it was made and how it ended."""
    if not findings:
        return
    out.mkdir(parents=True, exist_ok=True)
    for outcome in findings:
        path = out / f"{name}-{outcome.number}.bin"
        path.write_bytes(outcome.data)
        about = {"reader": name, "seed": seed, "number": outcome.number, "end": outcome.verdict}
        path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")


def replay(path: Path) -> int:
    """Reads a kept input in this process, where a debugger reaches it."""
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(path.name.rpartition("-")[0], Path(folder))
        judge.limit_memory()
        outcome = judge.read(path.read_bytes())
    print(f"{path}: {outcome.verdict} ({outcome.seconds:.2f} s, {outcome.gib:.2f} GiB)")
    return int(outcome.is_finding)


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """A line for each reader and one for all, as Markdown."""
    lines = [
        "| reader | inputs | accepted | refused | slowest, s | most memory, MiB | findings |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    everything = [outcome for all_ in outcomes.values() for outcome in all_]
    for name, all_ in [*outcomes.items(), ("all", everything)]:
        ends = collections.Counter(outcome.verdict for outcome in all_)
        slowest = max((o.seconds for o in all_), default=0)
        memory = 1024 * max((o.gib for o in all_), default=0)
        bad = sum(o.is_finding for o in all_)
        lines.append(
            f"| {name} | {len(all_)} | {ends['accepted']} | {ends['refused']} | {slowest:.2f} "
            f"| {memory:.0f} | {bad} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
