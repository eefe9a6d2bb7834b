"""What the commands that take a config share: their flags, and how they refuse and stop."""

import sys
from collections.abc import Callable, Sequence

from absl import flags, logging
from ml_collections import config_flags

from jaxbusi.errors import Stopped, UserError, fail

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that is written.")


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
    if WORKDIR.value is None:
        fail("--workdir is missing; name a folder for it, for instance --workdir runs/fusion")
    if "://" in WORKDIR.value:  # would become a local folder of that name
        fail(f"--workdir={WORKDIR.value} is no folder; mount it and name the folder instead")
    return left


def require_config(example: str) -> None:
    """Exits with status 2 where no config is given; `example` is named."""
    if CONFIG.value is None:
        fail(f"--config is missing; name a file, for instance --config {example}")


def run(work: Callable[[], None]) -> None:
    """Does the command's work and turns what may end it into one line and an exit status.

    Args:
      work: imports JAX itself: JAX reads its settings at import, and they are made here.
    """
    from jaxbusi import xla

    flag, folder = xla.set_cpu_flags(), xla.keep_compiled_programs()
    logging.set_verbosity(logging.INFO)
    if flag:
        logging.info("added to XLA_FLAGS: %s (set it yourself to decide otherwise)", flag)
    if folder:
        logging.info("compiled programs are kept in %s (or in JAX_COMPILATION_CACHE_DIR)", folder)
    try:
        work()
    except UserError as error:
        fail(str(error))
    except Stopped as stopped:
        print(f"jaxbusi: {stopped}", file=sys.stderr)
        sys.exit(stopped.status)
