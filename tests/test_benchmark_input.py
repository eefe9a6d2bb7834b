"""The input benchmark runs, and the augmentation has not lost its lead."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxbusi.data.phantoms import write_phantoms
from scripts import benchmark_input


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, count=12, seed=0, size=256)
    return folder


def test_the_fused_augmentation_is_much_faster_than_its_steps(root):
    """Processor time, not the clock; measured 5.5 and 3.7."""
    records = benchmark_input.choose(root, 12)
    gray, color = benchmark_input.augmentation_ratios(records, rounds=9)
    assert gray > 3
    assert color > 1.5


def test_the_command(root):
    command = [sys.executable, "scripts/benchmark_input.py", "--root", str(root)]
    command += ["--images", "8", "--rounds", "1"]
    repository = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    result = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for title in ("augmentation, the images as they are", "files to batches", "threads and"):
        assert title in result.stdout
    assert "2 processes" in result.stdout
