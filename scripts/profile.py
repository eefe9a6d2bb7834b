"""Traces training steps of one of the models, for Perfetto or TensorBoard, and sums up the trace.

    python scripts/profile.py --out trace                     # the fusion, batches of 8
    python scripts/profile.py --out trace --model ViT-B/16 --batch 32 --dtype bfloat16 --infer

Open the `perfetto_trace.json.gz` in `trace` at ui.perfetto.dev, which reads it in the browser, or
the folder with TensorBoard and its profile plugin. The table is of the kinds of operations: on a
CPU the time that threads spend in them, in all, so that its sum exceeds the clock's.
"""

import argparse
import collections
import re
import sys
from pathlib import Path

if __name__ == "__main__":
    # In place of the folder of scripts, as Python has a module `profile` of its own.
    sys.path[0] = str(Path(__file__).parents[1])

from jaxbusi import xla

_NUMBER = re.compile(r"(\.\d+|\.clone|\.remat)+$")


def operations(folder: Path) -> dict[str, tuple[float, int]]:
    """Sums up the newest trace in a folder.

    Returns:
      Milliseconds and number of runs by kind of operation, the longest first.

    Raises:
      FileNotFoundError: there is no trace in it.
    """
    from jax.profiler import ProfileData

    traces = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not traces:
        raise FileNotFoundError(f"{folder} holds no trace")
    total: collections.Counter[str] = collections.Counter()
    count: collections.Counter[str] = collections.Counter()
    for plane in ProfileData.from_file(str(traces[-1])).planes:
        for line in plane.lines:
            if not _runs_operations(plane.name, line.name):
                continue
            for event in line.events:
                kind = _NUMBER.sub("", event.name)
                # Frames of the runtime, named like C++ functions, hold the operations once more.
                if ":" in kind or " " in kind or kind == "end":
                    continue
                total[kind] += event.duration_ns / 1e6
                count[kind] += 1
    return {kind: (ms, count[kind]) for kind, ms in total.most_common()}


def _runs_operations(plane: str, line: str) -> bool:
    if plane.startswith("/device:"):
        return line == "XLA Ops" or "Stream" in line
    return line.startswith("tf_XLA")


def show(found: dict[str, tuple[float, int]], most: int) -> None:
    """Prints the kinds that take longest, and how much is left."""
    whole = sum(ms for ms, _ in found.values())
    rows = list(found.items())[:most]
    print(f"{'ms':>10}  {'share':>6}  {'runs':>6}  operation")
    for kind, (ms, runs) in rows:
        print(f"{ms:10.1f}  {ms / whole:6.1%}  {runs:6d}  {kind}")
    rest = whole - sum(ms for _, (ms, _) in rows)
    print(f"{rest:10.1f}  {rest / whole:6.1%}          {max(0, len(found) - most)} other kinds")


def main() -> None:
    """The command."""
    xla.set_cpu_flags()
    import jax

    from scripts import benchmark_steps

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=benchmark_steps.MODELS, default="fusion")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="that are traced; default 2")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--infer", action="store_true", help="inference in place of training")
    parser.add_argument("--rows", type=int, default=20, help="of the table; default 20")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trace")
    options = parser.parse_args()
    work, _ = benchmark_steps.ours(
        model=options.model, batch=options.batch, train=not options.infer, dtype=options.dtype
    )
    work()
    with jax.profiler.trace(str(options.out), create_perfetto_trace=True):
        for _ in range(options.steps):
            work()
    show(operations(options.out), options.rows)
    print(f"\n{next(options.out.rglob('perfetto_trace.json.gz'))}")


if __name__ == "__main__":
    main()
