"""The same contributions, from arms that were trained without the other branches.

In the fusion a branch is taken away afterwards, and the head was never trained to do without it.
An arm of a study was trained alone. Where there is one for every coalition of branches, their
probabilities are worth as much in the game of `contributions`, and nobody's are worth the shares of
the classes in the training part.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxbusi import workdir as workdirs
from jaxbusi.data.csv_files import open_csv
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.explain.contributions import Coalition, Values, coalitions, name_of


def arm_values(
    arms: Sequence[Path], workdir: Path, names: Sequence[str], together: np.ndarray
) -> Values:
    """The probabilities of retrained arms, as values of coalitions.

    Args:
      arms: workdirs, one for every coalition of the run's branches but the empty and the whole one.
      workdir: of the run.
      names: its N test images.
      together: float64[N, 3], what the run itself says about them.

    Returns:
      float64[N, 3] by coalition.

    Raises:
      UserError: an arm is missing, is too many, divides the images otherwise, or has no
        predictions of an image.
    """
    branches = workdirs.read_settings(workdir).model.branches
    wanted = coalitions(branches)[1:-1]
    if not wanted:
        raise UserError(f"--arms: {workdir} has a single branch; there is nothing to compare")
    split = _split(workdir)
    values: Values = {
        frozenset(): np.tile(_training_shares(split), (len(names), 1)),
        frozenset(branches): together,
    }
    for arm in arms:
        present: Coalition = frozenset(workdirs.read_settings(arm).model.branches)
        if present not in wanted or present in values:
            raise UserError(
                f"--arms {arm} was trained with {name_of(present)}; give one run for each of "
                f"{', '.join(map(name_of, wanted))}"
            )
        if _split(arm) != split:
            raise UserError(
                f"--arms {arm} divides the images otherwise than {workdir}; train it with "
                f"--config.data.split={workdir / 'split.csv'}"
            )
        values[present] = _predicted(arm, names)
    missing = [name_of(present) for present in wanted if present not in values]
    if missing:
        raise UserError(f"--arms: no run with {missing[0]} is given; name one for each of "
                        f"{', '.join(map(name_of, wanted))}")  # fmt: skip
    return values


def _split(workdir: Path) -> dict[tuple[str, str], str]:
    """Labels by image and part: the protocol `leaky` has images in two."""
    path = workdir / "split.csv"
    try:
        with open_csv(path, encoding="utf-8", errors="surrogateescape") as reader:
            header: list[str] = next(reader, [])
            rows = [dict(zip(header, cells, strict=True)) for cells in reader]
        return {(row["image"], row["part"]): row["label"] for row in rows}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error}); evaluate the run again") from error


def _training_shares(split: Mapping[tuple[str, str], str]) -> np.ndarray:
    """float64[3], shares of the classes in the training part."""
    labels = [label for (_, part), label in split.items() if part == "train"]
    return np.array([labels.count(name) for name in CLASSES]) / len(labels)


def _predicted(arm: Path, names: Sequence[str]) -> np.ndarray:
    rows = Predictions.read_csv(arm / "predictions_test.csv").originals()
    place = {name: row for row, name in enumerate(rows.image)}
    absent = [name for name in names if name not in place]
    if absent:
        raise UserError(f"--arms {arm} has no prediction of {absent[0]}; evaluate it again")
    return rows.probabilities[[place[name] for name in names]]
