"""What the pages have in common.

No script, no request, no file beside them: figures are data URIs, and a content security policy in
each page forbids everything else. All text is escaped, as file names may hold anything.
"""

import base64
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from jaxbusi import atomic
from jaxbusi.errors import UserError
from jaxbusi.evaluation.canvas import Picture

PERCENT = "\N{NO-BREAK SPACE}%"


def write(path: Path | str, template: str, **content: Any) -> None:
    """Fills a template of this folder and writes the page, in one rename.

    Raises:
      UserError: the page cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "score": score, "range": score_range}
    text = environment.get_template(template).render(**content)
    # Names that are not UTF-8 cannot be shown, and must not stop the page.
    atomic.write_bytes(path, text.encode("utf-8", "replace"))


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def percent(share: float) -> str:
    """'83.3 %' for 0.833."""
    return f"{100 * share:.1f}{PERCENT}"


def score(value: float, name: str) -> str:
    """'83.3 %' for 0.833, but '0.833' of an AUC or a Brier score."""
    return f"{value:.3f}" if name in ("auc", "brier") else percent(value)


def score_range(interval: Mapping[str, float], name: str) -> str:
    """'77.0 to 88.9 %', but '0.770 to 0.889' of an AUC."""
    low, high = (score(interval[end], name) for end in ("low", "high"))
    return f"{low.removesuffix(PERCENT)} to {high}"


def command_text(arguments: Sequence[str]) -> str:
    """The command as a shell takes it, a flag a line."""
    lines: list[list[str]] = [[]]
    for argument in arguments:
        if argument.startswith("--"):
            lines.append([])
        lines[-1].append(argument)
    return " \\\n    ".join(shlex.join(line) for line in lines)


def embed(picture: Picture) -> dict[str, str]:
    """What a template shows of a figure: its file as a data URI.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    except OSError as error:
        raise UserError(f"{picture.path}: cannot be read ({error.strerror})") from error
    return {
        "kind": picture.kind,
        "title": picture.title,
        "alt": picture.alt,
        "uri": f"data:image/png;base64,{data}",
    }


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as lines: ('data.copies', '5'), values written as in JSON."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, str) and value
            yield prefix + key, value if plain else json.dumps(value, ensure_ascii=False)
