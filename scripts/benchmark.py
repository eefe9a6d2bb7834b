"""Measures the program on this machine, and against PyTorch where that is asked for.

    python scripts/benchmark.py                              # some minutes on two CPU cores
    python scripts/benchmark.py --against torch              # nine; PyTorch is in the extra parity
    python scripts/benchmark.py --device gpu --dtype bfloat16 --train 64 --against torch

Whatever is compared runs in turn, A B A B, in processes of their own; what is said is the median
over the rounds, and a ratio above 1 means that ours is faster. Tables go to the terminal,
everything to a JSON file.
"""

import argparse
import contextlib
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # In place of the folder of scripts, whose profile.py would hide Python's own.
    sys.path[0] = str(Path(__file__).parents[1])

from jaxbusi import xla
from jaxbusi.data.store import usable_cores
from scripts import benchmark_input, benchmark_runs, benchmark_steps
from scripts.workers import Worker, in_turn

Row = dict[str, Any]


def steps(options: argparse.Namespace, peak: float) -> list[Row]:
    """Every model in inference and training; the fusion's training beside torch.compile's too."""
    others = ["torch", "torch.compile"] if options.against else []
    plan = [(name, batch, False) for name in options.models for batch in options.infer]
    plan += [(name, batch, True) for name in options.models for batch in options.train]
    rows = []
    for name, batch, train in plan:
        compiles = name == "fusion" and train  # it takes PyTorch a minute for each program
        rows.append(step(options, peak, name, batch, train, others if compiles else others[:1]))
    return rows


def scaling(options: argparse.Namespace, peak: float) -> list[Row]:
    """Training of the fusion at several batch sizes, and with its layers computed twice."""
    rows = [step(options, peak, "fusion", batch, True) for batch in options.scaling]
    return [*rows, step(options, peak, "fusion", options.train[-1], True, remat=True)]


def plans(options: argparse.Namespace) -> list[Row]:
    """Seconds that a training step takes to compile and the memory that it asks for, not run."""
    rows = []
    for name, batch, remat in (
        ("ViT-B/16", 8, False),
        ("fusion", 64, False),
        ("fusion", 64, True),
    ):
        about = {"model": name, "batch": batch, "remat": remat}
        found = once(benchmark_steps.plan, **about, dtype=options.dtype)
        memory = found["memory"] / 2**30
        rows.append({**about, "seconds": found["seconds"], "plan GiB": memory})
    return rows


def step(
    options: argparse.Namespace,
    peak: float,
    model: str,
    batch: int,
    train: bool,
    others: Sequence[str] = (),
    **more: bool,
) -> Row:
    """Measures one step, in turn with others' of the same model.

    Args:
      options: the command line.
      peak: operations a second of a plain matrix product.
      model: one of `benchmark_steps.MODELS`.
      batch: images a step.
      train: whether it is a training step.
      others: `torch`, `torch.compile`.
      more: for `benchmark_steps.ours`.
    """
    kind = "training" if train else "inference"
    print(f"{model}, {kind}, batch {batch}", file=sys.stderr)
    common = {"model": model, "batch": batch, "train": train, "dtype": options.dtype}
    device = "cuda" if options.device == "gpu" else "cpu"
    workers = {"jaxbusi": Worker(benchmark_steps.ours)}
    workers |= {way: Worker(benchmark_steps.in_torch) for way in others}
    facts = workers["jaxbusi"].prepare(**common, **more)
    for way in others:
        workers[way].prepare(**common, device=device, compiled=way == "torch.compile")
    timings = in_turn({way: worker.run for way, worker in workers.items()}, options.rounds)
    # Of a GPU's memory the system knows nothing.
    held = {way: w.peak() if device == "cpu" else None for way, w in workers.items()}
    for worker in workers.values():
        worker.close()
    seconds = timings.median("jaxbusi")
    return {
        "model": model,
        "step": kind,
        "batch": batch,
        **more,
        "ms": 1e3 * seconds,
        "images/s": batch / seconds,
        # The compiler counts the body of a loop once.
        "of peak": None if more else facts["flops"] / seconds / peak,
        "plan GiB": facts["memory"] / 2**30,
        "process GiB": held["jaxbusi"],
        "torch GiB": held.get("torch"),
        **{f"x {way}": timings.lead("jaxbusi", way) for way in others},
    }


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Sets variables for the processes that are started within."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def once(make: Callable[..., Any], **arguments: Any) -> Any:
    """Returns the facts of something that a process of its own does once."""
    worker = Worker(make)
    try:
        return worker.prepare(**arguments)
    finally:
        worker.close()


def hardware(options: argparse.Namespace) -> Row:
    """What the numbers are measured on."""
    found = once(benchmark_steps.machine, dtype=options.dtype)
    return {"processor": _processor(), "cores": usable_cores(), "dtype": options.dtype, **found}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def measure(options: argparse.Namespace) -> Iterator[tuple[str, list[Row]]]:
    """Yields each table's title and rows as soon as they are measured."""
    machine = hardware(options)
    yield "machine", [machine]
    if "steps" in options.sections:
        yield "steps", steps(options, machine["peak"])
        if options.scaling:
            yield "batch sizes", scaling(options, machine["peak"])
    if "plans" in options.sections:
        yield "compiling a training step", plans(options)
    if "runs" in options.sections:
        with tempfile.TemporaryDirectory() as folder:
            dtype = f"--config.compute_dtype={options.dtype}"
            runs = benchmark_runs.Runs(Path(folder), options.train[0], (dtype,))
            starts, epoch = runs.measure()
            yield "to the end of the first step", starts
            yield "an epoch", epoch
            yield "a checkpoint", [once(benchmark_runs.checkpoint)]
    if "devices" in options.sections:
        flag = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
        with _environment(XLA_FLAGS=flag, JAX_PLATFORMS="cpu"):
            yield "simulated devices", once(benchmark_runs.devices)["rows"]
    if "input" in options.sections:
        yield "input, per core", benchmark_input.summary(options.rounds)


def show(title: str, rows: list[Row]) -> None:
    """Prints rows of the same keys under each other."""
    print(f"\n{title}")
    named = dict.fromkeys(key for row in rows for key in row)
    keys = [key for key in named if any(row.get(key) is not None for row in rows)]
    cells = [[_cell(row.get(key)) for key in keys] for row in rows]
    widths = [max(map(len, column)) for column in zip(keys, *cells, strict=True)]
    for line in [keys, *cells]:
        padded = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("  " + "  ".join(padded), flush=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--against", choices=("torch",), help="time PyTorch in turn with ours")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    sections = ["steps", "plans", "runs", "devices", "input"]
    parser.add_argument("--sections", nargs="+", choices=sections, default=sections)
    names = list(benchmark_steps.MODELS)
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--train", nargs="+", type=int, default=[8], help="batch sizes; default 8")
    parser.add_argument("--infer", nargs="*", type=int, default=[8], help="default 8")
    parser.add_argument(
        "--scaling", nargs="*", type=int, default=[2], help="of the fusion; default 2"
    )
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; default 3")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"))
    return parser.parse_args()


def main() -> None:
    """The command."""
    options = parse()
    logging.disable(logging.INFO)
    xla.set_cpu_flags()  # for the processes that are started: as the program itself does
    if options.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    found: dict[str, list[Row]] = {}
    for title, rows in measure(options):
        found[title] = rows
        show(title, rows)
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
