"""The images of a run, read, checked and divided into the parts that split.csv records."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxbusi.data import busi, phantoms, pipeline, splits
from jaxbusi.data.records import CLASSES, Record
from jaxbusi.data.store import ImageStore
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
    parts: dict[str, Part] = {}
    first = 0
    for store in stores:
        here = rows[first : first + len(store)]
        first += len(store)
        for name in splits.PARTS:
            members = [number for number, row in enumerate(here) if row.part == name]
            if members:
                parts[name] = Part(store, _samples(here, members))
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
    """Reads or draws split.csv; its rows are aligned to the stores, one after the other."""
    records = [record for store in stores for record in store.records]
    digests = [digest for store in stores for digest in store.sha256]
    if path.exists():
        return splits.read_split(path, records, digests)
    if settings.split:
        rows = splits.read_split(settings.split, records, digests)
    else:
        own = stores[0].records
        drawn = splits.paper_split(
            [record.name for record in own],
            [record.label for record in own],
            seed=seed,
            train_fraction=settings.train_fraction,
            validation_fraction=settings.validation_fraction,
        )
        drawn |= {record.name: "external" for store in stores[1:] for record in store.records}
        rows = splits.make_rows(records, digests, drawn, settings.copies)
    if jax.process_index() == 0:
        splits.write_split(path, rows)
    return rows


def _samples(rows: list[splits.SplitRow], members: list[int]) -> pipeline.Samples:
    labels = np.array([CLASSES.index(rows[number].label) for number in members], np.int32)
    copies = np.array([rows[number].copies for number in members], np.int32)
    return pipeline.expand(np.array(members, np.int32), labels, copies)


def _log_counts(rows: list[splits.SplitRow]) -> None:
    for part, counts in splits.part_counts(rows).items():
        text = ", ".join(f"{name} {images} ({copies})" for name, (images, copies) in counts.items())
        total = [sum(column) for column in zip(*counts.values(), strict=True)]
        logging.info("%s part, images (copies): %s; total %d (%d)", part, text, *total)
