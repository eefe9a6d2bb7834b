"""The files of a run that say what it was and how good it is."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxbusi import workdir as workdirs
from jaxbusi.data import splits
from jaxbusi.data.splits import SplitRow
from jaxbusi.errors import UserError


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The files of a run that a card is made of.

    Attributes:
      workdir: of the run.
      config: content of config.json.
      results: content of results.json.
      split: lines of split.csv.
    """

    workdir: Path
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    split: Sequence[SplitRow]

    @classmethod
    def read(cls, workdir: Path) -> "Evidence":
        """Reads the files.

        Raises:
          UserError: one is missing or damaged, or the run was not evaluated yet.
        """
        config = workdirs.read_config(workdir)
        results = workdirs.read_results(workdir)
        if results is None:
            again = workdirs.evaluate_again(workdir)
            raise UserError(f"{workdir} has no results to put into a model card; {again}")
        return cls(workdir, config, results, splits.read_rows(workdir / "split.csv"))

    def check_step(self, step: int) -> None:
        """Checks that the results are those of the weights of this step.

        Raises:
          UserError: they are of another step.
        """
        measured = self.results["checkpoint"]["step"]
        if measured != step:
            raise UserError(
                f"{self.workdir}/results.json is about the weights of step {measured}, and the "
                f"run's are of step {step}; {workdirs.evaluate_again(self.workdir)}"
            )
