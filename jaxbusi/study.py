"""The command that makes many runs, arms × seeds, and sums them into one comparison.

    python -m jaxbusi.study --config configs/table4.py --workdir runs/table4 [--config.KEY=VALUE …]

At the end it prints the tables of study.md. Give the same command again to go on: finished runs are
kept, the one that was stopped goes on where it was, those that failed are tried again. Exit status
1: the comparison lacks runs that failed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app

from jaxbusi import command


def _parse_flags(argv: Sequence[str]) -> list[str]:
    left = command.parse_flags(argv)
    command.require_config("configs/table4.py")
    return left


def main(_: Sequence[str]) -> None:
    """Runs the study that the flags describe."""
    command.run(_work)


def _work() -> None:
    # Imported here: flags are parsed in a moment without JAX.
    from jaxbusi.campaign import run_study

    workdir = command.WORKDIR.value
    assert workdir is not None  # checked with the other flags
    study = run_study(command.CONFIG.value, workdir)
    print((Path(workdir) / "study.md").read_text())
    failed = [run for arm in study["arms"].values() for run in arm["runs"] if run["error"]]
    if failed:
        names = ", ".join(run["workdir"] for run in failed)
        print(
            f"jaxbusi: {len(failed)} run(s) failed ({names}); failure.txt in their folders says "
            "why, and the same command tries them again",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
