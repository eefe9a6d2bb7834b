"""The command that shows a trained run as a web page, with a JSON API.

    python -m jaxbusi.serve --workdir runs/fusion

The page is at http://127.0.0.1:8000 and reached from this machine alone.
"""

import argparse
import functools
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from jaxbusi import command
from jaxbusi.errors import Parser, UserError


def main() -> None:
    """Runs the command."""
    arguments = _parser().parse_args()
    command.run_alone(functools.partial(_work, arguments))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m jaxbusi.serve",
        description="Show a trained run as a web page and a JSON API: drop images or DICOM files, "
        "see the probabilities and where they come from. Nothing that is sent is kept. For "
        "research only.",
    )
    parser.add_argument(
        "--workdir", required=True, type=Path, metavar="RUN", help="the folder of the trained run"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen at (default: 127.0.0.1, this machine alone); any other needs a "
        "secret in the environment variable JAXBUSI_TOKEN, which everybody who asks must give",
    )
    parser.add_argument(
        "--port",
        type=_between(0, 65535),
        default=8000,
        metavar="N",
        help="0 for any that is free (default: 8000)",
    )
    parser.add_argument(
        "--max-mib",
        type=_between(1, 1024),
        default=64,
        metavar="N",
        help="largest file that is taken, MiB (default: 64)",
    )
    parser.add_argument(
        "--rate",
        type=_between(1, 1_000_000),
        default=600,
        metavar="N",
        help="most requests of one address, a minute (default: 600)",
    )
    return parser


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text} is no number from {least} to {most}")
        return int(text)

    return number


def _work(arguments: argparse.Namespace) -> None:
    for name in ("starlette", "uvicorn"):
        try:
            import_module(name)
        except ImportError as error:
            raise UserError(
                f"the page needs {name} ({error}); pip install 'jaxbusi[serve]'"
            ) from error
    from jaxbusi.serve.server import serve

    serve(
        arguments.workdir,
        arguments.host,
        arguments.port,
        megabytes=arguments.max_mib,
        per_minute=arguments.rate,
    )


if __name__ == "__main__":
    main()
