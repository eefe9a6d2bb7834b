"""Measures the program on this machine, and against PyTorch where that is asked for.

    python scripts/benchmark.py                       # CPU, some minutes
    python scripts/benchmark.py --against torch       # the extra `parity` brings PyTorch
    python scripts/benchmark.py --device gpu --against torch --out gpu.json

Steps of ResNet18, ViT-B/16 and the fusion are timed in turn with PyTorch's, A B A B, and what is
said is the median over the rounds: a ratio above 1 means that ours is faster. The tables go to the
terminal, everything to a JSON file.
"""

import argparse
import dataclasses
import json
import logging
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxbusi import xla

xla.set_cpu_flags()  # as the program itself does, before JAX starts

import jax
import jax.numpy as jnp

from jaxbusi.checkpoints import Checkpoints
from jaxbusi.data.store import usable_cores
from scripts import benchmark_steps as steps
from scripts.timing import Timings, in_turn

Table = list[dict[str, Any]]


def hardware(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    devices = jax.devices(device)
    return {
        "device": devices[0].device_kind,
        "count": len(devices),
        "processor": _processor(),
        "cores": usable_cores(),
        "jax": jax.__version__,
        "machine": platform.machine(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


def measure_steps(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each model and batch size, in training and in inference."""
    dtype = jnp.bfloat16 if options.bfloat16 else jnp.float32
    peak = steps.matmul_peak(dtype)
    for name in options.models:
        model = dataclasses.replace(steps.MODELS[name], dtype=dtype)
        for batch, train in [(b, False) for b in options.infer] + [
            (b, True) for b in options.train
        ]:
            ours = steps.Ours(model, batch)
            ways: dict[str, steps.Step] = {"jaxbusi": ours.train if train else ours.infer}
            for way, compiled in options.against:
                pair = steps.torch_steps(
                    model,
                    batch,
                    device="cuda" if options.device == "gpu" else "cpu",
                    compiled=compiled,
                    bfloat16=options.bfloat16,
                )
                ways[way] = pair[0] if train else pair[1]
            yield _row(name, batch, train, ours, in_turn(ways, options.rounds), peak)


def _row(
    name: str, batch: int, train: bool, ours: steps.Ours, timings: Timings, peak: float
) -> dict[str, Any]:
    seconds = timings.median("jaxbusi")
    flops = ours.flops()[0 if train else 1]
    return {
        "model": name,
        "step": "training" if train else "inference",
        "batch": batch,
        "milliseconds": 1e3 * seconds,
        "images_per_second": batch / seconds,
        "share_of_peak": flops / seconds / peak,
        "memory_gib": ours.memory() / 2**30 if train else None,
        **{
            f"over_{way}": timings.lead("jaxbusi", way)
            for way in timings.seconds
            if way != "jaxbusi"
        },
    }


def measure_checkpoint() -> dict[str, float]:
    """How long saving the fusion's state holds up training, and takes in all."""
    ours = steps.Ours(steps.MODELS["fusion"], 2)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder) / "checkpoints")
        stalls, whole = [], []
        for _ in range(2):
            ours.train()
            start = time.perf_counter()
            checkpoints.save(ours.state)
            stalls.append(time.perf_counter() - start)
            checkpoints.wait()
            whole.append(time.perf_counter() - start)
        checkpoints.close()
    return {"stall_seconds": min(stalls), "seconds": min(whole)}


def show(title: str, rows: Table) -> None:
    """Prints rows of the same keys under each other."""
    print(f"\n{title}")
    keys = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    cells = [[_cell(row[key]) for key in keys] for row in rows]
    heads = [key.replace("_", " ") for key in keys]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    for line in [heads, *cells]:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--against", choices=("torch",), help="time PyTorch in turn with ours")
    parser.add_argument("--compile", action="store_true", help="torch.compile besides")
    parser.add_argument("--bfloat16", action="store_true", help="compute in it, on both sides")
    parser.add_argument("--models", nargs="+", choices=steps.MODELS, default=list(steps.MODELS))
    parser.add_argument("--train", nargs="*", type=int, default=[8], help="batch sizes; default 8")
    parser.add_argument("--infer", nargs="*", type=int, default=[1, 8], help="default 1 8")
    parser.add_argument("--rounds", type=int, default=3, help="that are counted; default 3")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"))
    options = parser.parse_args()
    named = [("torch", False)] * bool(options.against)
    options.against = named + [("torch_compile", True)] * bool(options.against and options.compile)
    return options


def main() -> None:
    """The command."""
    options = parse()
    logging.disable(logging.INFO)
    found: dict[str, Any] = {"hardware": hardware(options.device)}
    print(", ".join(f"{key}: {value}" for key, value in found["hardware"].items()))
    found["steps"] = list(measure_steps(options))
    show("steps at 224 pixels; over …: how many times as fast as it", found["steps"])
    found["checkpoint"] = measure_checkpoint()
    show("a checkpoint of the fusion", [found["checkpoint"]])
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    found["peak_gib"] = usage / 2**20
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
