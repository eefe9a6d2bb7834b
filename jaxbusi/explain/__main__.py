"""The command that explains a trained run's answers.

    python -m jaxbusi.explain --workdir runs/fusion
    python -m jaxbusi.explain --workdir runs/fusion hospital/ --out explained

Without INPUT the run's test part is explained, and its report gets a section on it.
"""

import argparse
import functools
from pathlib import Path
from typing import Any

from jaxbusi import command
from jaxbusi.errors import Parser, images_from


def main() -> None:
    """Runs the command."""
    arguments = _parser().parse_args()
    command.run_alone(functools.partial(_work, arguments))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m jaxbusi.explain",
        description="Explain the answers of a trained run: what each branch contributes to them "
        "(exact Shapley values), where each looks and how much of that is the lesion, and how far "
        "answers rest on calipers, text and borders. Writes explain.json, pictures and a page. For "
        "research only.",
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
        help="runs on the same split that were trained with fewer branches, one for each set of "
        "them: with two branches, a run of each alone",
    )
    parser.add_argument(
        "--pictures",
        type=images_from(0),
        default=12,
        metavar="N",
        help="how many images to draw: the surest right and the surest wrong answers (default: 12)",
    )
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from jaxbusi.explain.explanation import explain

    document, out = explain(
        arguments.workdir,
        arguments.inputs,
        arguments.out,
        arms=arguments.arms,
        count=arguments.pictures,
    )
    print(_summary(document, out))


def _summary(document: dict[str, Any], out: Path) -> str:
    shares = document["contributions"]["shares"]["all"]
    lines = [f"{len(document['images'])} images; of what moves their probabilities:"]
    for name in document["branches"]:
        ends = [shares[name][key] for key in ("value", "low", "high")]
        value, low, high = ("?" if end is None else f"{100 * end:.1f}" for end in ends)
        lines.append(f"  {name}: {value} % ({low}–{high})")
    return "\n".join([*lines, f"open {out / 'explain.html'}"])


if __name__ == "__main__":
    main()
