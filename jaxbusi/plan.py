"""What a study runs: the arms of a comparison, each with every seed."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from ml_collections import ConfigDict

from jaxbusi.errors import UserError
from jaxbusi.settings import Range, Settings, build

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
SCORES = ("accuracy", "precision", "recall")
"""What a published row may hold, as shares."""

NotEmpty = Range("at least one, none of them twice", lambda v: 0 < len(set(v)) == len(v))


@dataclasses.dataclass(frozen=True)
class StudySettings:
    """`config.study`; the comments of `configs/table4.py` explain every field."""

    seeds: Annotated[tuple[int, ...], NotEmpty]
    folds: Annotated[int, Range("0, or 2 or more", lambda value: value == 0 or value >= 2)]
    arms: Annotated[tuple[str, ...], NotEmpty]
    changes: Mapping[str, Any]
    published: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Attributes:
      arm: which model or recipe.
      seed: of split, augmentation and weights.
      fold: that is tested on, or None for a single split.
      settings: of the run.
      workdir: its folder.
    """

    arm: str
    seed: int
    fold: int | None
    settings: Settings
    workdir: Path

    @property
    def name(self) -> str:
        """In words, for the log."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.arm}, seed {self.seed}{fold}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a study, in the order in which they are made.

    All arms of a split come before the next, so that a study that is not finished compares its arms
    on the same images.

    Attributes:
      study: `config.study`.
      workdir: of the study.
      runs: arms × seeds, or arms × folds × seeds.
    """

    study: StudySettings
    workdir: Path
    runs: tuple[PlannedRun, ...]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], workdir: Path) -> "Plan":
        """Checks a config that has a `study` beside the settings of a run.

        Args:
          config: the settings that all arms share, `study`, and a `seed` that is not read.
          workdir: of the study; each run gets a folder in it.

        Raises:
          UserError: a setting is wrong, of the study, of all arms or of one; the message names it.
        """
        base = dict(config.items())
        if "study" not in base:
            raise UserError(
                "config.study is missing: this config describes a single run; give it to "
                "python -m jaxbusi.main, or start from configs/table4.py"
            )
        study = build(StudySettings, base.pop("study"), "config.study")
        _check_names(study)
        runs = tuple(
            PlannedRun(
                arm,
                seed,
                fold,
                _settings(base, study, arm, seed, fold),
                workdir / arm / (f"seed{seed}" if fold is None else f"seed{seed}_fold{fold}"),
            )
            for seed in study.seeds
            for fold in (range(study.folds) if study.folds else [None])
            for arm in study.arms
        )
        return cls(study, workdir, runs)

    def of_arm(self, arm: str) -> Iterator[PlannedRun]:
        """The runs of one arm."""
        return (run for run in self.runs if run.arm == arm)


def _check_names(study: StudySettings) -> None:
    for arm in study.arms:
        if arm not in study.changes:
            known = ", ".join(sorted(study.changes))
            raise UserError(f"config.study.arms names {arm!r}; config.study.changes has {known}")
        if not _FOLDER.fullmatch(arm):
            raise UserError(
                f"config.study.arms: {arm!r} becomes the name of a folder; use letters, digits "
                "and . _ + - only"
            )
        if not hasattr(study.changes[arm], "items"):
            raise UserError(f"config.study.changes.{arm} must hold settings by name, as a config")
        if "seed" in study.changes[arm]:
            raise UserError(
                f"config.study.changes.{arm}.seed would be lost: config.study.seeds has the seeds"
            )
    for arm, row in study.published.items():
        _check_published(study, arm, row)


def _check_published(study: StudySettings, arm: str, row: Any) -> None:
    key = f"config.study.published.{arm}"
    if arm not in study.changes:
        raise UserError(f"{key} is of no arm; config.study.changes has {sorted(study.changes)}")
    if not hasattr(row, "items") or set(row) - set(SCORES):
        found = ", ".join(sorted(set(row) - set(SCORES))) if hasattr(row, "items") else repr(row)
        raise UserError(f"{key} holds {found}; it may hold {', '.join(SCORES)}")
    for score, value in row.items():
        if not isinstance(value, float) or not 0 <= value <= 1:
            raise UserError(f"{key}.{score}={value!r} must be a share, as 0.932 for 93.2 %")


def _settings(
    base: Mapping[str, Any], study: StudySettings, arm: str, seed: int, fold: int | None
) -> Settings:
    config = _merge(base, study.changes[arm])
    config["seed"] = seed
    if fold is not None:
        config = _merge(config, {"data": {"folds": study.folds, "fold": fold}})
    # The files are named once for all arms; an arm takes those of the branches that it has.
    # What is no mapping or list here is refused by name below.
    model = config.get("model")
    branches = model.get("branches") if isinstance(model, Mapping | ConfigDict) else None
    if isinstance(branches, tuple | list) and hasattr(config.get("weights"), "items"):
        config["weights"] = {
            name: path if name in branches else "" for name, path in config["weights"].items()
        }
    try:
        return Settings.from_config(config)
    except UserError as error:
        raise UserError(f"arm {arm}: {error}") from error


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` in place of its values, mapping by mapping."""
    merged = dict(base.items())
    for key, value in changes.items():
        old = merged.get(key)
        nested = hasattr(value, "items") and hasattr(old, "items")
        merged[key] = _merge(old, value) if nested else value  # type: ignore[arg-type]
    return merged
