"""The command that trains, evaluates and reports.

    python -m jaxbusi.main --config configs/fusion.py --workdir runs/fusion [--config.KEY=VALUE …]

Run it again to go on with a run that was stopped. `--mode=evaluate` evaluates and reports from the
newest checkpoint; it needs no `--config`.
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from jaxbusi.errors import UserError, fail

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: everything it writes.")
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate"], "Train and evaluate, or evaluate the checkpoint."
)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line; exits with status 2 and one line where it is wrong."""
    try:
        left = flags.FLAGS(list(argv))
        config = _CONFIG.value
        if config is not None:
            config.to_dict()  # a config file that failed to load complains only when it is used
    except Exception as error:  # a config file is the user's code: anything may come out of it
        fail(f"{' '.join(str(error).split())} ({type(error).__name__} in the flags or the config)")
    if len(left) > 1:
        fail(f"unexpected argument {left[1]!r}; settings are written --config.KEY=VALUE")
    if _WORKDIR.value is None:
        fail("--workdir is missing; name a folder for the run, for instance --workdir runs/fusion")
    if config is None and _MODE.value == "train":
        fail("--config is missing; name a file, for instance --config configs/fusion.py")
    return left


def main(_: Sequence[str]) -> None:
    """Runs what the flags ask for."""
    from jaxbusi import xla

    flag = xla.set_cpu_flags()
    # Imported here: JAX reads its settings at import, and flags are parsed in a moment without it.
    from jaxbusi.train import Stopped, evaluate, train_and_evaluate

    logging.set_verbosity(logging.INFO)
    if flag:
        logging.info("added to XLA_FLAGS: %s (set it yourself to decide otherwise)", flag)
    workdir = _WORKDIR.value
    assert workdir is not None  # checked with the other flags
    try:
        if _MODE.value == "evaluate":
            evaluate(_CONFIG.value, workdir)
        else:
            train_and_evaluate(_CONFIG.value, workdir)
    except UserError as error:
        fail(str(error))
    except Stopped as stopped:
        print(f"jaxbusi: {stopped}", file=sys.stderr)
        sys.exit(stopped.status)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
