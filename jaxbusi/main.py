"""The command that trains, evaluates and reports.

    python -m jaxbusi.main --config configs/fusion.py --workdir runs/fusion [--config.KEY=VALUE …]

Run it again to go on with a run that was stopped. `--mode=evaluate` evaluates and reports from the
newest checkpoint; it needs no `--config`.
"""

from collections.abc import Sequence

from absl import app, flags

from jaxbusi import command

_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate"], "Train and evaluate, or evaluate the checkpoint."
)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    left = command.parse_flags(argv)
    if _MODE.value == "train":
        command.require_config("configs/fusion.py")
    return left


def main(_: Sequence[str]) -> None:
    """Runs what the flags ask for."""
    command.run(_work)


def _work() -> None:
    # Imported here: flags are parsed in a moment without JAX.
    from jaxbusi.train import evaluate, train_and_evaluate

    workdir = command.WORKDIR.value
    assert workdir is not None  # checked with the other flags
    if _MODE.value == "evaluate":
        evaluate(command.CONFIG.value, workdir)
    else:
        train_and_evaluate(command.CONFIG.value, workdir)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
