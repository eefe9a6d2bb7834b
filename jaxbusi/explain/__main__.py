"""The command that explains a trained run's answers.

    python -m jaxbusi.explain --workdir runs/fusion
    python -m jaxbusi.explain --workdir runs/fusion hospital/ --out explained

Without INPUT the run's test part is explained, and its report gets a section on it.
"""

import argparse
import functools
from pathlib import Path

from absl import flags, logging

from jaxbusi import command
from jaxbusi.errors import Parser


def main() -> None:
    """Runs the command."""
    arguments = _parser().parse_args()
    flags.FLAGS.mark_as_parsed()  # the log is absl's, whose flags this command has not
    logging.use_absl_handler()
    command.run(functools.partial(_work, arguments), connect=False)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m jaxbusi.explain",
        description="Explain the answers of a trained run: what each branch contributes to them "
        "(exact Shapley values). Writes explain.json. For research only.",
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="image files, folders, patterns in quotes, or CSV files with a column image; by "
        "default the run's test part",
    )
    parser.add_argument(
        "--workdir", required=True, type=Path, metavar="RUN", help="the folder of the trained run"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the folder to write to (default: RUN/explain, or RUN/explain/inputs for INPUT)",
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        default=(),
        type=Path,
        metavar="ARM",
        help="runs on the same split that were trained with a single branch each, to be shown "
        "beside",
    )
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from jaxbusi.explain.explanation import explain

    explain(arguments.workdir, arguments.inputs, arguments.out, arms=arguments.arms)


if __name__ == "__main__":
    main()
