"""Measures how predicting grows with the number of files: time should be a line, memory flat.

    python scripts/benchmark_predict.py                     # 25,000 to 200,000 files
    python scripts/benchmark_predict.py --images 1000 2000

Trains ViT-Ti/16 at 32 pixels for a moment, so that the files are a good part of the work; makes PNG
files of 64 x 64 pixels in a temporary folder (200 different ones, under as many names as are wanted
by hard links); and predicts each number of them with the command in a process of its own, into a
folder of parts. Printed are the seconds by the clock and of processor from the command's start to
its end, the images a second of the whole and of what was added to the size before, and the memory
at its highest. docs/predicting.md has a table.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

_DIFFERENT = 200
_IN_A_FOLDER = 10_000
_SMALL = (
    *("--config", "configs/demo.py", "--config.num_epochs=0.2", "--config.data.phantoms=40"),
    *("--config.data.augment.resize=36", "--config.data.augment.crop=32"),
    "--config.model.branches=('vit',)",
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a process took: seconds by the clock and of processor, and MiB at the highest."""

    clock: float
    processor: float
    mib: float


def write_images(folder: Path, count: int, different: Path) -> None:
    """Makes `count` names of PNG files below `folder`; their contents lie in `different`."""
    different.mkdir(exist_ok=True)
    for number in range(min(count, _DIFFERENT)):
        path = different / f"{number}.png"
        if not path.exists():
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    for number in range(count):
        inner = folder / f"{number // _IN_A_FOLDER:04d}"
        if number % _IN_A_FOLDER == 0:
            inner.mkdir(parents=True)
        os.link(different / f"{number % _DIFFERENT}.png", inner / f"frame-{number:08d}.png")


def measure(command: list[str], folder: Path) -> Measured:
    """Runs a command to its end; its output is kept, and shown where it fails."""
    begun = time.perf_counter()
    log = folder / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{log.read_text()[-3000:]}")
    clock = time.perf_counter() - begun
    return Measured(clock, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**10)  # from KiB


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    counts = [25_000, 50_000, 100_000, 200_000]
    parser.add_argument("--images", type=int, nargs="+", default=counts)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        run = folder / "run"
        python = [sys.executable, "-m"]
        measure([*python, "jaxbusi.main", "--workdir", str(run), *_SMALL], folder)

        def predict(count: int) -> Measured:
            write_images(folder / f"{count}", count, folder / "different")
            words = [
                "--workdir",
                str(run),
                str(folder / f"{count}"),
                "--out",
                f"{folder}/p{count}/",
            ]
            return measure([*python, "jaxbusi.predict", *words], folder)

        predict(500)  # the program is compiled, and kept for the others
        print("  images   clock s   processor s   images/s   images/s of the added   peak MiB")
        before: tuple[int, float] | None = None
        for count in options.images:
            m = predict(count)
            added = (count - before[0]) / (m.clock - before[1]) if before else float("nan")
            print(
                f"{count:8d} {m.clock:9.1f} {m.processor:13.1f} {count / m.clock:10.0f} "
                f"{added:23.0f} {m.mib:10.0f}",
                flush=True,
            )
            before = count, m.clock


if __name__ == "__main__":
    main()
