"""A set as array_record: one large file in place of 1,600 small ones, for network file systems.

It is written by TensorFlow Datasets, which needs no TensorFlow for array_record. Imported where a
prepared set is used: TensorFlow Datasets takes half a second to import.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import json_format

from jaxbusi.data.busi import PREPARED, log_counts, read_folder
from jaxbusi.data.folders import UNPRINTABLE, find_records, natural_key
from jaxbusi.data.images import read_file
from jaxbusi.data.records import CLASSES, Record
from jaxbusi.errors import UserError

_LONGEST_FEATURES = 2**16  # Bytes of features.json; ours has 1,600.
_SPLIT = "train"  # TensorFlow Datasets wants a name; the set has no split of its own.


def prepare(root: str | Path, directory: str | Path) -> Path:
    """Writes the set under `root` as array_record to `PREPARED` in `directory`.

    Written under another name and renamed at the end, so that an interrupted run leaves no set.
    What already lies there is kept if it holds the same files byte for byte.

    Returns:
      The folder written; `busi.read_records` takes it or `directory`.

    Raises:
      UserError: `root` cannot be read; another set lies in `directory`; writing failed.
    """
    records = read_folder(root, key="root")
    builder = Busi(root=root, data_dir=directory)
    target = Path(builder.data_dir)
    if target.exists():
        if _contents(read_prepared(target)) != _contents(records):
            raise UserError(f"{target} holds another set than {root}; give another folder")
        return target
    try:
        builder.download_and_prepare(file_format="array_record")
    except OSError as error:
        raise UserError(f"cannot write {target} ({error}); free space or choose another") from error
    return target


def read_prepared(
    directory: str | Path, *, require_all: bool = True, key: str = "config.data.root"
) -> list[Record]:
    """Reads what `prepare` wrote: the same records as `busi.read_folder`, with the same bytes.

    Passes once over the entries for names and labels; image bytes are read when they are asked for,
    by any thread, and in another process after pickling.

    Args:
      directory: the folder that holds `dataset_info.json`.
      require_all: False accepts a set that lacks whole classes.
      key: the setting that named the folder, for errors.

    Raises:
      UserError: another data set's folder, a damaged one, or a class without images.
    """
    entries = _Entries(str(directory))
    try:
        records = [
            Record(
                name=_checked_name(entry["name"].decode()),
                label=range(len(CLASSES))[entry["label"]],
                image=_Field(entries, row, None),
                masks=tuple(_Field(entries, row, mask) for mask in range(len(entry["masks"]))),
            )
            for row, entry in enumerate(entries)
        ]
    except Exception as error:  # The readers are C++ and raise whatever the damage leads to.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key}: {directory} is no intact prepared set ({type(error).__name__}: {reason}); "
            "delete it and write it again with scripts/prepare_tfds.py"
        ) from error
    if len({record.name for record in records}) < len(records):
        raise UserError(f"{key}: {directory} holds two images of one name; prepare it again")
    missing = set(range(len(CLASSES))) - {record.label for record in records}
    if missing and require_all:
        names = ", ".join(CLASSES[label] for label in sorted(missing))
        raise UserError(f"{key}: {directory} has no image of class {names}; prepare a whole set")
    log_counts(records, directory)
    return sorted(records, key=lambda record: (record.label, *natural_key(record.name)))


def _features() -> tfds.features.FeaturesDict:
    encoded = functools.partial(tfds.features.Tensor, shape=(), dtype=np.object_)
    return tfds.features.FeaturesDict(
        {
            "image": encoded(doc="The encoded image file."),
            "masks": tfds.features.Sequence(encoded(doc="An encoded mask file.")),
            "name": tfds.features.Text(doc="Path of the image in the set."),
            "label": tfds.features.ClassLabel(names=list(CLASSES)),
        }
    )


def _checked_name(name: str) -> str:
    if UNPRINTABLE.search(name):
        raise ValueError(f"it holds an image of the name {name!r}")
    return name


class Busi(tfds.core.GeneratorBasedBuilder):
    """TensorFlow Datasets builder over the records of a folder, as array_record.

    An entry holds `image` and `masks` as the bytes of the original files, so that check sums of
    files hold for it too; `images.decode_image` decodes them. It also holds `name` and `label`.
    """

    VERSION = tfds.core.Version(PREPARED.name)
    RELEASE_NOTES = {PREPARED.name: "First version."}  # noqa: RUF012 (the base class has it this way)

    # Nothing is downloaded. Looking for check sums would import importlib_resources, which
    # TensorFlow Datasets 4.9.10 uses but does not require.
    url_infos: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, *, root: str | Path, **kwargs: Any) -> None:
        self._root = root
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Breast ultrasound images: benign, malignant, normal, with lesion masks.",
            features=_features(),
            homepage="https://doi.org/10.1016/j.dib.2019.104863",
            citation="Al-Dhabyani et al., Dataset of breast ultrasound images, "
            "Data in Brief 28:104863, 2020",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # Nothing is downloaded.
        return {_SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        records = find_records(Path(self._root), require_all=True, key="root")
        for row, record in enumerate(records):
            yield (
                row,
                {
                    "image": read_file(record.image, record.name),
                    "masks": [read_file(mask, record.name) for mask in record.masks],
                    "name": record.name,
                    "label": record.label,
                },
            )


class _Entries:
    """The entries of a prepared set; pickles as its folder and is opened anew on the other side."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def __reduce__(self) -> tuple[type["_Entries"], tuple[str]]:
        return type(self), (self._directory,)

    @functools.cached_property
    def _source(self) -> Any:
        _check_features(Path(self._directory))
        builder = tfds.builder_from_directory(self._directory, file_format="array_record")
        _check_files(Path(self._directory), builder.info.splits[_SPLIT].filepaths)
        if tuple(builder.info.features["label"].names) != CLASSES:
            raise ValueError(f"its classes are {builder.info.features['label'].names}")
        return builder.as_data_source(split=_SPLIT)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._source)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self._source[row]


def _check_features(directory: Path) -> None:
    """Refuses features that are not ours: their file names classes, which would be imported."""
    with (directory / "features.json").open("rb") as file:
        found = json.loads(file.read(_LONGEST_FEATURES))
    if found != json_format.MessageToDict(_features().to_proto()):
        raise ValueError("features.json is not that of this program")


def _check_files(directory: Path, paths: Sequence[str | os.PathLike[str]]) -> None:
    """Refuses files outside the folder, where dataset_info.json or a link may point."""
    for path in paths:
        if not Path(path).resolve().is_relative_to(directory.resolve()):
            raise ValueError(f"{path} leads out of it")


@dataclasses.dataclass(frozen=True)
class _Field:
    """The image (`mask` None) or one mask of an entry: a `Blob`."""

    entries: _Entries
    row: int
    mask: int | None

    def read_bytes(self) -> bytes:
        entry = self.entries[self.row]
        return entry["image"] if self.mask is None else entry["masks"][self.mask]


def _contents(records: list[Record]) -> list[tuple[str, int, list[bytes]]]:
    return [
        (
            record.name,
            record.label,
            [hashlib.sha256(b.read_bytes()).digest() for b in (record.image, *record.masks)],
        )
        for record in records
    ]
