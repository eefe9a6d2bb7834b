"""The audit benchmark runs, and finds the copies that it plants."""

import os
import subprocess
import sys
from pathlib import Path

from scripts import benchmark_audit


def test_planted_copies_are_found_and_the_making_is_not_counted():
    measured = benchmark_audit.measure(400)
    assert measured["planted"] == 4
    assert measured["found"] >= 3
    assert measured["others"] <= 4
    assert measured["making"] > 0
    assert measured["processor"] > 0


def test_the_command():
    repository = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "scripts/benchmark_audit.py", "--images", "100", "200"],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    header, *lines = result.stdout.splitlines()
    assert "copies found" in header
    assert [line.split()[0] for line in lines] == ["100", "200"]
