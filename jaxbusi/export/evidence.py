"""The files of a run that say what it was and how good it is."""

import dataclasses
import json
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
        path = workdir / "results.json"
        try:
            results = json.loads(path.read_text())
            evaluated = bool(results["parts"]) and "step" in results["checkpoint"]
        except FileNotFoundError:
            evaluated = False
        except KeyError:  # before the end of training it holds only what is known then
            evaluated = False
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path} cannot be read ({error}); {again(workdir)}") from error
        if not evaluated:
            raise UserError(f"{workdir} has no results to put into a model card; {again(workdir)}")
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
                f"run's are of step {step}; {again(self.workdir)}"
            )


def again(workdir: Path) -> str:
    """What to do where the results are not there or not those of the weights."""
    return f"evaluate it: python -m jaxbusi.main --mode=evaluate --workdir {workdir}"
