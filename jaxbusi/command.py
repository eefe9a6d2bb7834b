"""What the commands that take a config share: their flags, and how they refuse and stop."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags, logging
from ml_collections import config_flags

from jaxbusi.errors import Stopped, UserError, fail, say

if TYPE_CHECKING:
    from jaxbusi import cluster

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that is written.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where no cluster manager is to be asked."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line; exits with status 2 and one line where it is wrong."""
    try:
        left = flags.FLAGS(list(argv))
        if CONFIG.value is not None:
            CONFIG.value.to_dict()  # a config file that failed to load complains only when used
    except KeyError as error:
        name = str(error.args[0]).strip("'")
        fail(f"{name} is no setting where a --config flag names it; the config file has them all")
    except Exception as error:  # a config file is the user's code: anything may come out of it
        fail(f"{' '.join(str(error).split())} ({type(error).__name__} in the flags or the config)")
    if len(left) > 1:
        fail(f"unexpected argument {left[1]!r}; settings are written --config.KEY=VALUE")
    if len({flag.value is None for flag in (_COORDINATOR, _PROCESSES, _PROCESS)}) > 1:
        fail("--coordinator, --processes and --process go together; give all three or none")
    if WORKDIR.value is None:
        fail("--workdir is missing; name a folder for it, for instance --workdir runs/fusion")
    if "://" in WORKDIR.value:  # would become a local folder of that name
        fail(f"--workdir={WORKDIR.value} is no folder; mount it and name the folder instead")
    return left


def require_config(example: str) -> None:
    """Exits with status 2 where no config is given; `example` is named."""
    if CONFIG.value is None:
        fail(f"--config is missing; name a file, for instance --config {example}")


def run(work: Callable[[], None], *, connect: bool = True) -> None:
    """Does the command's work and turns what may end it into one line and an exit status.

    Args:
      work: imports JAX itself: JAX reads its settings at import, and they are made here.
      connect: with the other processes of the job; False where each works for itself.
    """
    from jaxbusi import xla

    flag, folder = xla.set_cpu_flags(), xla.keep_compiled_programs()
    logging.set_verbosity(logging.INFO)
    if flag:
        logging.info("added to XLA_FLAGS: %s (set it yourself to decide otherwise)", flag)
    if folder:
        logging.info("compiled programs are kept in %s (or in JAX_COMPILATION_CACHE_DIR)", folder)
    import jax

    from jaxbusi import cluster

    try:
        if connect:
            cluster.connect(_address())
        work()
    except UserError as error:
        say(str(error))
        cluster.leave(2)
    except Stopped as stopped:
        say(str(stopped))
        sys.exit(stopped.status)
    except jax.errors.JaxRuntimeError as error:
        if not jax.distributed.is_initialized():
            raise
        _lost(error)
        cluster.leave(1)


def run_alone(work: Callable[[], None]) -> None:
    """`run` for a command with a parser of its own, whose processes work each for itself."""
    flags.FLAGS.mark_as_parsed()  # the log is absl's, whose flags such a command has not
    logging.use_absl_handler()
    run(work, connect=False)


def _address() -> "cluster.Address | None":
    from jaxbusi import cluster

    coordinator, processes, process = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    if coordinator is None or processes is None or process is None:
        return None
    return cluster.Address(coordinator, processes, process)


def _lost(error: Exception) -> None:
    """Says that a step failed, and gives JAX the time to find out which process is dead."""
    from jaxbusi import cluster

    seconds = cluster.HEARTBEAT_SECONDS
    say(
        f"a step failed, as it does when one of the processes dies ({str(error)[:300]}); if one "
        f"did, JAX ends this one too within {seconds} s and gives the number of its task, which is "
        "that of the process; the same command on all of them goes on from the last checkpoint"
    )
    time.sleep(seconds + 15)
