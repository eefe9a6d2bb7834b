"""Which share of work that needs no talking is this process's: several hosts, or a job array."""

import dataclasses
import logging
import re
from collections.abc import Mapping

from jaxbusi.errors import UserError

_ARRAY = "SLURM_ARRAY_TASK_"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` equal shares: of things numbered from 0, those with `n % count == index`."""

    index: int
    count: int


def parse(text: str) -> Shard:
    """Reads `i/n`, with i from 0 to n - 1.

    Raises:
      UserError: it is something else.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    shard = Shard(int(match[1]), int(match[2])) if match else Shard(0, 0)
    if not shard.index < shard.count:
        raise UserError(f"--shard={text} is no share; write i/n with i from 0 to n - 1, as 0/4")
    return shard


def find_shard(wanted: Shard | None, environment: Mapping[str, str]) -> Shard:
    """Finds this process's share; the first that applies decides.

    1. The one that was asked for.
    2. The task of a SLURM job array, divided further where srun started several processes in it.
    3. The process of several that srun started.

    Args:
      wanted: from the command line, or None.
      environment: of the process, as `os.environ`.

    Raises:
      UserError: the numbers of a job array are not evenly spaced.
    """
    if wanted is not None:
        return wanted
    array, process = _array_task(environment), _process(environment)
    shard = Shard(array.index * process.count + process.index, array.count * process.count)
    if shard.count > 1:
        logging.info(
            "SLURM started this as one of several: share %d of %d, counted from 0; --shard=0/1 "
            "takes the whole",
            *(shard.index, shard.count),
        )
    return shard


def _process(environment: Mapping[str, str]) -> Shard:
    # Outside of srun, in a batch script, there is the number of tasks but only one process.
    names = ("SLURM_PROCID", "SLURM_NTASKS")
    if "SLURM_STEP_NODELIST" not in environment or not set(names) <= environment.keys():
        return Shard(0, 1)
    index, count = (int(environment[name]) for name in names)
    return Shard(index, count)


def _array_task(environment: Mapping[str, str]) -> Shard:
    names = [f"{_ARRAY}{name}" for name in ("ID", "MIN", "STEP", "COUNT")]
    if names[0] not in environment or names[3] not in environment:
        return Shard(0, 1)
    defaults = ("0", "0", "1", "1")
    values = [environment.get(name, default) for name, default in zip(names, defaults, strict=True)]
    if all(re.fullmatch(r"\d{1,9}", value, re.ASCII) for value in values):
        task, first, step, count = map(int, values)
        index, left = divmod(task - first, max(step, 1))
        if 0 <= index < count and left == 0:
            return Shard(index, count)
    said = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
    raise UserError(f"{said}: the tasks of this array are not evenly spaced; give --shard=i/n")
