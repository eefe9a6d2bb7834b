"""The command that makes many runs, arms × seeds, and sums them into one comparison.

    python -m jaxbusi.study --config configs/table4.py --workdir runs/table4 [--config.KEY=VALUE …]

At the end it prints the tables of study.md. Give the same command again to go on: finished runs are
kept, the one that was stopped goes on where it was, those that failed are tried again. Exit status
1: the comparison lacks runs that failed.

The command may run several times at once, on all hosts that share the folder, as the tasks of a
SLURM array do: each makes the runs that no other is making. `--parallel=N` starts N programs on
this machine, each on a device of its own.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from jaxbusi import command

_PARALLEL = flags.DEFINE_integer(
    "parallel", 1, "Programs on this machine that share the runs, each on a device.", lower_bound=1
)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    left = command.parse_flags(argv)
    command.require_config("configs/table4.py")
    return left


def main(_: Sequence[str]) -> None:
    """Runs the study that the flags describe."""
    command.run(_work, connect=_PARALLEL.value == 1)


def _work() -> None:
    # Imported here: flags are parsed in a moment without JAX.
    from jaxbusi.campaign import run_study
    from jaxbusi.parallel import run_programs

    workdir = command.WORKDIR.value
    assert workdir is not None  # checked with the other flags
    study: dict[str, Any] | None
    if _PARALLEL.value > 1:
        alone = [sys.executable, "-m", "jaxbusi.study", *sys.argv[1:], "--parallel=1"]
        study = run_programs(command.CONFIG.value, workdir, alone, _PARALLEL.value)
    else:
        study = run_study(command.CONFIG.value, workdir)
    if study is None:
        print("jaxbusi: other programs make all the runs that are left, and write the comparison")
        return
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
