"""The images of a run, read, checked and divided into the parts that split.csv records."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from jaxbusi.data import busi, phantoms, pipeline, protocols, splits
from jaxbusi.data.duplicates import find_groups
from jaxbusi.data.grouping import Groups, read_groups, unite
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
    Before anything is trained the log says how many images that are not trained on have a near-copy
    among those that are; see `_groups` for where they are looked for.

    Args:
      settings: `config.data`.
      seed: draws the split, and the phantoms.
      workdir: where split.csv is kept, and the phantoms where they are asked for.

    Raises:
      UserError: a set, an image or a split file is not what it should be, or under the protocol
        `clean` an image that is not trained on has a near-copy that is; the message names it.
    """
    root = settings.root
    if not root and settings.phantoms:
        root = str(workdir / "phantoms")
        phantoms.write_phantoms(root, count=settings.phantoms, seed=seed)
    stores = [_open(_own(busi.read_records(root)), settings)]
    if settings.external:
        records = busi.read_records(
            settings.external, require_all=False, key="config.data.external"
        )
        stores.append(_open(splits.external_records(records), settings))
    path = workdir / "split.csv"
    rows = _rows(stores, settings, seed, path)
    patients = any(record.patient for store in stores for record in store.records)
    _check_leakage(rows, settings, patients=patients)
    # Written after the check: what it refused may be mended in the same workdir.
    if not path.exists() and jax.process_index() == 0:
        splits.write_split(path, rows)
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


def _own(records: Sequence[Record]) -> Sequence[Record]:
    """The records of the set that is trained on, none of which may look like an external one."""
    for record in records:
        if _is_external(record):
            raise UserError(
                f"config.data.root: {record.name!r} begins like the images of an external set; "
                "rename the folder"
            )
    return records


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
    """The lines of split.csv, read or drawn."""
    records = [record for store in stores for record in store.records]
    digests = [digest for store in stores for digest in store.sha256]
    if path.exists():
        return splits.read_split(path, records, digests)
    if settings.split:
        rows = splits.read_split(settings.split, records, digests)
        groups = _groups(records, digests, {row.image: row.group for row in rows})
        return [dataclasses.replace(row, group=groups[row.image]) for row in rows]
    listed = None
    if settings.groups:
        own, others = (
            [record.name for record in records if _is_external(record) is external]
            for external in (False, True)
        )
        listed = read_groups(settings.groups, own, optional=others)
    return protocols.draw_rows(
        records,
        digests,
        _groups(records, digests, listed),
        protocol=settings.protocol,
        shares=protocols.Shares(
            settings.train_fraction, settings.validation_fraction, settings.folds, settings.fold
        ),
        copies=settings.copies,
        seed=seed,
    )


def _is_external(record: Record) -> bool:
    return record.name.startswith(splits.EXTERNAL_PREFIX)


@functools.lru_cache(maxsize=1)  # the runs of a study divide the same images again and again
def _near_copies(records: tuple[Record, ...], _: tuple[str, ...]) -> Groups:
    return find_groups(records, progress=True)


def _groups(
    records: Sequence[Record], digests: Sequence[str], listed: Mapping[str, str] | None
) -> Mapping[str, str]:
    """The group of each image: what must not be parted, and is one unit of evidence.

    Near-copies are a group, and so are the images of a patient where the set is a table that names
    patients; a group is a connected component of both. Groups that are listed take the place of the
    near-copies within a set. They say nothing of copies across the two sets, as training and
    external images: those are looked for in any case.

    Args:
      records: of both sets.
      digests: of their files.
      listed: group by image, '' for none, as `config.data.groups` or a given split.csv has them;
        None looks for all near-copies.
    """
    names = [record.name for record in records]
    patients = {record.name: record.patient for record in records}
    is_external = [_is_external(record) for record in records]
    if listed is not None and not any(is_external):
        return unite(names, [listed, patients])
    found = _near_copies(tuple(records), tuple(digests))
    across = found.straddling(is_external)
    logging.info(
        "%d images are in %d groups of near-copies, %d of them across the two sets",
        *(sum(len(group.rows) for group in found.groups), len(found.groups), len(across)),
    )
    if listed is None:
        return unite(names, [found.of(), patients])
    copies = {names[row]: group.name for group in across for row in group.rows}
    return unite(names, [listed, patients, copies])


def _check_leakage(rows: list[splits.SplitRow], settings: DataSettings, *, patients: bool) -> None:
    """Says which images have a near-copy in training; the clean protocol refuses any."""
    relative = "a near-copy, or an image of their group or patient,"
    what = relative if patients or settings.groups else "a near-copy"
    trained = {row.group for row in rows if row.part == "train" and row.group}
    for part, (leaked, total) in splits.leakage(rows).items():
        logging.info(
            "%d of %d %s images (%.1f %%) have %s in the training part",
            *(leaked, total, part, 100 * leaked / total, what),
        )
        names = [row.image for row in rows if row.part == part and row.group in trained]
        if settings.protocol == "clean" and leaked:
            raise UserError(
                f"config.data.protocol='clean': {leaked} of {total} {part} images have {what} "
                f"in the training part, the first is {names[0]!r}; leave it out of "
                f"{'config.data.external' if part == 'external' else 'config.data.split'}"
            )
        if part == "external" and leaked:
            logging.warning(
                "scores on these external images are no news of another hospital: %s%s",
                *(", ".join(names[:5]), f" and {leaked - 5} more" if leaked > 5 else ""),
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
