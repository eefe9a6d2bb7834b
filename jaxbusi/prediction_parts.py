"""A folder of Parquet parts: fixed ranges of one list of images, to be resumed and to be shared.

    _manifest.json       what the parts belong to: the list, the model, the rows of a part
    part-00000.parquet   the first so many images, in their order
    part-00001.parquet   the next

What is in a part depends on the list and the model alone. Any process may write any part; one that
is there is whole, and is not written again.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxbusi import atomic
from jaxbusi.errors import UserError
from jaxbusi.prediction_files import COLUMNS, require_pyarrow

MANIFEST = "_manifest.json"
"""Its underscore lets readers of a folder of Parquet pass it over."""

_ERROR = COLUMNS.index("error")
_MODEL = ("weights_sha256", "config_sha256", "checkpoint_step")
_JUDGED = ("temperature", "familiarity_sha256")
_LIST = ("images", "images_sha256")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of one list of images in one folder.

    Attributes:
      folder: where they lie.
      images: how many images the list has, 1 or more.
      rows: images of a part; the last one may have fewer.
      about: JSON values that say which list and which model, as `bulk` describes them.
    """

    folder: Path
    images: int
    rows: int
    about: Mapping[str, Any]

    @property
    def count(self) -> int:
        """How many parts the list makes."""
        return -(-self.images // self.rows)

    def images_of(self, part: int) -> range:
        """The places in the list of a part's images."""
        return range(part * self.rows, min((part + 1) * self.rows, self.images))

    def path(self, part: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{part:05d}.parquet"

    def claim(self) -> None:
        """Writes the manifest, or checks that the folder is for this list and this model.

        Several processes may do so at once.

        Raises:
          UserError: the folder holds parts of something else, or cannot be read or written.
        """
        path = self.folder / MANIFEST
        wanted = {**self.about, "part_rows": self.rows, "parts": self.count}
        if not path.exists():
            if next(self.folder.glob("part-*.parquet"), None) is not None:
                raise UserError(
                    f"--out {self.folder} holds parts without a {MANIFEST}; name another folder"
                )
            atomic.write_json(path, wanted)
        try:
            found = json.loads(path.read_bytes())
            differing = _differing(found, wanted, (*_LIST, *_MODEL, *_JUDGED, "part_rows"))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} cannot be read ({error}); name another folder") from error
        if differing:
            raise UserError(f"--out {self.folder} {_refusal(differing, found, wanted)}")

    def failed(self, part: int) -> int | None:
        """Returns how many of a part's images could not be used; None where it is not there.

        Raises:
          UserError: the file is none of these parts.
        """
        path = self.path(part)
        parquet = require_pyarrow(str(path))
        try:
            found = parquet.read_metadata(path)
            about = json.loads(found.metadata[b"jaxbusi"])
            groups = [found.row_group(number) for number in range(found.num_row_groups)]
            empty = sum(group.column(_ERROR).statistics.null_count for group in groups)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path} cannot be read ({reason}); delete it and run the same command again"
            ) from error
        other = _differing(about, self.about, (*_LIST, *_MODEL, *_JUDGED))
        if tuple(found.schema.names) != COLUMNS:
            raise UserError(f"{path} is of another version; name another --out")
        if other or found.num_rows != len(self.images_of(part)):
            raise UserError(f"{path} is of another list or model; delete it or name another --out")
        return found.num_rows - empty


def _differing(
    found: Mapping[str, Any], wanted: Mapping[str, Any], names: Iterable[str]
) -> set[str]:
    return {name for name in names if found.get(name) != wanted[name]}


def _refusal(differing: set[str], found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    if differing & set(_LIST):
        return (
            f"was begun with another list of images ({found.get('images')}, now "
            f"{wanted['images']}); give the same INPUT from the same folder, or name another --out"
        )
    if differing & set(_MODEL):
        return (
            f"was begun with another model (step {found.get('checkpoint_step')}, weights "
            f"{str(found.get('weights_sha256'))[:12]}…; now step {wanted['checkpoint_step']}, "
            f"{wanted['weights_sha256'][:12]}…); name another --out"
        )
    if differing & set(_JUDGED):
        return "was begun before the run was evaluated again; name another --out"
    return f"was begun with --part-rows={found.get('part_rows')}; give the same"
