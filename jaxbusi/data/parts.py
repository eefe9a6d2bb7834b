"""The images of a run, read, checked and divided into the parts that split.csv records."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from jaxbusi.data import busi, phantoms, pipeline, protocols, splits
from jaxbusi.data.duplicates import find_groups
from jaxbusi.data.grouping import read_groups
from jaxbusi.data.records import CLASSES, Record
from jaxbusi.data.store import ImageStore
from jaxbusi.errors import UserError
from jaxbusi.settings import DataSettings


@dataclasses.dataclass(frozen=True)
class Part:
    """One part: its images, and which copies of them count.

    Attributes:
      store: the images, shared with other parts.
      samples: rows of the store, each with its copy number and label.
    """

    store: ImageStore
    samples: pipeline.Samples


@dataclasses.dataclass(frozen=True)
class PartSet:
    """All parts of a run.

    Attributes:
      parts: by name: `train`, `validation`, `test`, `external`, without those that are empty.
      rows: of split.csv.
      skipped: name and reason of each image that could not be read and was left out.
    """

    parts: dict[str, Part]
    rows: list[splits.SplitRow]
    skipped: list[tuple[str, str]]

    def __getitem__(self, name: str) -> Part:
        return self.parts[name]


def load_parts(settings: DataSettings, *, seed: int, workdir: Path) -> PartSet:
    """Reads the set, and the external one, and divides it as split.csv says.

    The workdir's own split.csv decides if there is one, then `settings.split`, then the seed.

    Args:
      settings: `config.data`.
      seed: draws the split, and the phantoms.
      workdir: where split.csv is kept, and the phantoms where they are asked for.

    Raises:
      UserError: a folder, an image or a split file is not what it should be; the message names it.
    """
    root = settings.root
    if not root and settings.phantoms:
        root = str(workdir / "phantoms")
        phantoms.write_phantoms(root, count=settings.phantoms, seed=seed)
    stores = [_open(busi.read_records(root), settings)]
    if settings.external:
        records = busi.read_records(
            settings.external, require_all=False, key="config.data.external"
        )
        stores.append(_open(splits.external_records(records), settings))
    rows = _rows(stores, settings, seed, workdir / "split.csv")
    _check_leakage(rows, settings)
    parts: dict[str, Part] = {}
    firsts = splits.first_copies(rows)
    for store in stores:
        place = {record.name: number for number, record in enumerate(store.records)}
        for name in splits.PARTS:
            members = [
                (place[row.image], row, first)
                for row, first in zip(rows, firsts, strict=True)
                if row.part == name and row.image in place
            ]
            if members:
                parts[name] = Part(store, _samples(members))
    _log_counts(rows)
    skipped = [entry for store in stores for entry in store.skipped]
    return PartSet(parts, rows, skipped)


def _open(records: Sequence[Record], settings: DataSettings) -> ImageStore:
    return ImageStore(
        records,
        resize=settings.augment.resize,
        crop=settings.augment.crop,
        cache_gib=settings.cache_gib,
        on_bad=settings.on_bad_image,
    )


def _rows(
    stores: list[ImageStore], settings: DataSettings, seed: int, path: Path
) -> list[splits.SplitRow]:
    """Reads or draws split.csv."""
    records = [record for store in stores for record in store.records]
    digests = [digest for store in stores for digest in store.sha256]
    if path.exists():
        return splits.read_split(path, records, digests)
    if settings.split:
        rows = splits.read_split(settings.split, records, digests)
    else:
        rows = protocols.draw_rows(
            records,
            digests,
            _groups(settings, records),
            protocol=settings.protocol,
            shares=protocols.Shares(
                settings.train_fraction, settings.validation_fraction, settings.folds, settings.fold
            ),
            copies=settings.copies,
            seed=seed,
        )
    if jax.process_index() == 0:
        splits.write_split(path, rows)
    return rows


def _groups(settings: DataSettings, records: Sequence[Record]) -> Mapping[str, str]:
    """The group of each image: as `config.data.groups` lists them, else of its near-copies."""
    if settings.groups:
        return read_groups(settings.groups, [record.name for record in records])
    found = find_groups(records, progress=True).of()
    logging.info(
        "%d images are in %d groups of near-copies",
        sum(1 for group in found.values() if group),
        len({group for group in found.values() if group}),
    )
    return found


def _check_leakage(rows: list[splits.SplitRow], settings: DataSettings) -> None:
    """Says how many images have a near-copy in training; the clean protocol refuses any."""
    for part, (leaked, total) in splits.leakage(rows).items():
        logging.info(
            "%d of %d %s images (%.1f %%) have a near-copy in the training part",
            *(leaked, total, part, 100 * leaked / total),
        )
        if settings.protocol == "clean" and leaked:
            groups = {row.group for row in rows if row.part == "train"}
            names = [row.image for row in rows if row.part == part and row.group in groups]
            raise UserError(
                f"config.data.protocol='clean': {leaked} of {total} {part} images have a near-copy "
                f"in the training part, the first is {names[0]!r}; leave it out of "
                f"{'config.data.external' if part == 'external' else 'config.data.split'}"
            )
    excluded = [row.image for row in rows if row.part == splits.EXCLUDED]
    if excluded:
        logging.warning(
            "%d images are left out, as their groups carry two labels: %s",
            *(len(excluded), ", ".join(excluded)),
        )


def _samples(members: list[tuple[int, splits.SplitRow, int]]) -> pipeline.Samples:
    """Of rows of a store, each with its line of split.csv and the number of its first copy."""
    return pipeline.expand(
        [number for number, _, _ in members],
        [CLASSES.index(row.label) for _, row, _ in members],
        [row.copies for _, row, _ in members],
        [first for _, _, first in members],
    )


def _log_counts(rows: list[splits.SplitRow]) -> None:
    for part, counts in splits.part_counts(rows).items():
        text = ", ".join(f"{name} {images} ({copies})" for name, (images, copies) in counts.items())
        total = [sum(column) for column in zip(*counts.values(), strict=True)]
        logging.info("%s part, images (copies): %s; total %d (%d)", part, text, *total)
