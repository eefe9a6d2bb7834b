"""The command that turns a trained run into a model for other programs.

    python -m jaxbusi.export --workdir runs/fusion --format onnx --out exported/fusion

Either format holds the whole model, from bytes of pixels to probabilities.
"""

import argparse
import functools
from pathlib import Path

from jaxbusi import command
from jaxbusi.errors import Parser


def main() -> None:
    """Runs the command."""
    parser = Parser(
        prog="python -m jaxbusi.export",
        description="Write the model of a trained run for other programs, as StableHLO (any "
        "program with JAX: CPU, CUDA, TPU) or ONNX (ONNX Runtime and others), with a description "
        "of its preprocessing and a model card. What is written has been run and gives the run's "
        "probabilities. For research only.",
    )
    parser.add_argument(
        "--workdir", required=True, type=Path, metavar="RUN", help="the folder of the trained run"
    )
    parser.add_argument(
        "--format", required=True, choices=("stablehlo", "onnx"), help="of the model"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the folder to make; absent or empty"
    )
    arguments = parser.parse_args()
    command.run_alone(functools.partial(_work, arguments))


def _work(arguments: argparse.Namespace) -> None:
    from jaxbusi.export.folder import export_run

    difference = export_run(arguments.workdir, arguments.format, arguments.out)
    print(f"{arguments.out}: probabilities as the run's, to {difference:.1e}; see MODEL_CARD.md")


if __name__ == "__main__":
    main()
