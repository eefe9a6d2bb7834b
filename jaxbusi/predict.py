"""The command that predicts image files with a trained run; from Python, `Predictor` does.

    python -m jaxbusi.predict --workdir runs/fusion hospital/ --out predictions.csv
    python -m jaxbusi.predict --workdir runs/fusion hospital/ --out predictions/

A file has one row for each image; a folder gets them in parts, which can be resumed and shared.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxbusi import command
from jaxbusi.errors import Parser, UserError, fail, images_from
from jaxbusi.shards import parse

if TYPE_CHECKING:
    from jaxbusi.bulk import Outcome
    from jaxbusi.predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the command parses its flags and sets the compiler's before JAX.
    if name == "Predictor":
        from jaxbusi.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Runs the command."""
    arguments = _parser().parse_args()
    try:
        shard = None if arguments.shard is None else parse(arguments.shard)
    except UserError as error:
        fail(str(error))
    command.run_alone(functools.partial(_work, arguments, shard))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m jaxbusi.predict",
        description="Predict image files with a trained run: benign, malignant or normal. Writes "
        "one row for each image; of a file that cannot be read, the column `error` says why, and "
        "the exit status is 1. For research only.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image files, folders, patterns in quotes, or CSV files with a column image",
    )
    parser.add_argument(
        "--workdir", required=True, type=Path, metavar="RUN", help="the folder of the trained run"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="OUT",
        help="a file .csv, .jsonl or .parquet; or a folder, with a slash at its end, for Parquet "
        "parts: run again, the command goes on where it was stopped",
    )
    parser.add_argument(
        "--part-rows", type=images_from(1), metavar="N", help="images of a part (default: 4096)"
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="write only every N-th part of a folder, from part I, counted from 0; by default the "
        "tasks of a SLURM job array and the processes of srun share the parts",
    )
    return parser


def _work(arguments: argparse.Namespace, shard: Any) -> None:
    from jaxbusi.bulk import predict_files

    outcome = predict_files(
        arguments.workdir,
        arguments.inputs,
        arguments.out,
        part_rows=arguments.part_rows,
        shard=shard,
    )
    print(_summary(outcome, arguments.out))
    if outcome.failed:
        sys.exit(1)


def _summary(outcome: "Outcome", out: str) -> str:
    rate = outcome.predicted / max(outcome.seconds, 1e-9)
    bad = f", {outcome.failed} of them bad files (see the column error)" if outcome.failed else ""
    before = outcome.images - outcome.predicted
    kept = f"; {before} of them had been done before" if before else ""
    return f"{outcome.images} images in {out}{bad}{kept}; {rate:.1f} images/s"


if __name__ == "__main__":
    main()
