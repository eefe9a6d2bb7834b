"""config.json: what a run was, so that it can be gone on with, evaluated and repeated."""

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import jax

from jaxbusi import __version__, atomic, cluster
from jaxbusi.errors import UserError
from jaxbusi.settings import Settings, differences
from jaxbusi.weights.load import Origin

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")

# Settings that change no number: where the images lie (their sha256 are checked) and how they load.
_FREE = ("root", "external", "workers", "cache_gib")


_LOCK, _HOLDER = ".lock", ".lock-holder"


class WorkdirInUseError(UserError):
    """Another program works in the folder."""


@contextlib.contextmanager
def claim(workdir: Path, *, wait: bool = False) -> Iterator[None]:
    """Makes the workdir and keeps every other program out of it while the block runs.

    The system takes the lock back when the program ends, however it ends. Of several processes of
    one program the first holds it for all.

    Args:
      workdir: the folder.
      wait: for a program that holds it, rather than to refuse.

    Raises:
      WorkdirInUseError: another program holds it; the message says which.
      UserError: the folder cannot be made or written to.
    """
    lock = filelock.FileLock(workdir / _LOCK, timeout=-1 if wait else 0)
    try:
        cluster.on_first(lambda: _acquire(lock, workdir))
        yield
    finally:
        lock.release()


def _acquire(lock: filelock.BaseFileLock, workdir: Path) -> None:
    holder = workdir / _HOLDER
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        now = datetime.datetime.now().isoformat(" ", "seconds")
        holder.write_text(f"process {os.getpid()} on {platform.node()} since {now}")
    except filelock.Timeout as error:
        with contextlib.suppress(OSError):
            raise WorkdirInUseError(
                f"--workdir {workdir} is in use by {holder.read_text()}; wait until that ends, or "
                "name another"
            ) from error
        raise WorkdirInUseError(f"--workdir {workdir} is in use by another program") from error
    except NotImplementedError:
        logging.warning(
            "the file system of %s has no locks; take care that no second run writes to it", workdir
        )
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be made or written to ({error.strerror or error}); name "
            "another or mend its permissions"
        ) from error


def prepare(workdir: Path, settings: Settings, origins: Mapping[str, Origin]) -> None:
    """Checks that the run in a workdir, if there is one, is this one; writes config.json.

    Args:
      workdir: the folder, claimed.
      settings: of the run.
      origins: of the branches that start from public weights.

    Raises:
      UserError: it holds a run with other settings, which the message lists, or config.json cannot
        be written.
    """
    path = workdir / "config.json"
    if path.exists():
        check_settings(workdir, settings)
        for branch, before in read_origins(workdir).items():
            now = origins[branch]
            if now.sha256 != before.sha256:
                raise UserError(
                    f"config.weights.{branch} is another file than the run in {workdir} began with "
                    f"(sha256 {before.sha256[:12]}…, now {now.sha256[:12]}…); give that one or "
                    "name another --workdir"
                )
            if (now.mean, now.std) != (before.mean, before.std):
                raise UserError(
                    f"config.weights.{branch} now asks for mean {now.mean} and std {now.std}; the "
                    f"run in {workdir} began with {before.mean} and {before.std}; convert it with "
                    "those or name another --workdir"
                )
    if jax.process_index() == 0:
        atomic.write_json(path, describe(settings, origins))


def check_settings(workdir: Path, settings: Settings) -> None:
    """Checks that the run in a workdir has these settings, but for those that change no number.

    Raises:
      UserError: it has others, which the message lists, or config.json cannot be read.
    """
    found = differences(
        _comparable(read_config(workdir)["config"]), _comparable(settings.to_json())
    )
    if found:
        raise UserError(
            f"{workdir} holds a run with other settings ({'; '.join(found)}); "
            "name another --workdir or give the same settings"
        )


def describe(settings: Settings, origins: Mapping[str, Origin]) -> dict[str, Any]:
    """Returns what config.json holds: settings, seed, origins, versions, devices, the command."""
    return {
        "config": settings.to_json(),
        "seed": settings.seed,
        "origins": {name: dataclasses.asdict(origin) for name, origin in origins.items()},
        **environment(),
    }


def environment() -> dict[str, Any]:
    """Returns the command, the versions and the devices of this process, as JSON values."""
    devices = jax.devices()
    return {
        "command": command_line(),
        "versions": {
            "jaxbusi": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
    }


def command_line() -> list[str]:
    """Returns the command that started this process, argument by argument."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is None or not module.name.startswith("jaxbusi"):
        return [Path(sys.executable).name, *sys.argv]
    return ["python", "-m", module.name.removesuffix(".__main__"), *sys.argv[1:]]


def read_config(workdir: Path) -> dict[str, Any]:
    """Returns config.json.

    Raises:
      UserError: there is none, or it is not one of ours.
    """
    path = workdir / "config.json"
    try:
        content = json.loads(path.read_text())
        if not isinstance(content["config"], dict):
            raise KeyError("config")
    except FileNotFoundError as error:
        raise UserError(
            f"{workdir} holds no run: config.json is missing; train one first"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it or train again") from error
    return content


def read_settings(workdir: Path) -> Settings:
    """Returns the settings of the run in a workdir."""
    return Settings.from_config(read_config(workdir)["config"])


def read_origins(workdir: Path) -> dict[str, Origin]:
    """Returns where the branches' first weights in a workdir come from, without random ones.

    Raises:
      UserError: config.json is not one of ours.
    """
    stored = read_config(workdir).get("origins", {})
    try:
        if not isinstance(stored, dict):
            raise UserError(f"origins is {stored!r}")
        return {branch: Origin.from_json(content) for branch, content in stored.items()}
    except UserError as error:
        path = workdir / "config.json"
        raise UserError(f"{path} cannot be read ({error}); restore it or train again") from error


def config_sha256(workdir: Path) -> str:
    """Returns the hexadecimal sha256 of what decides a run's numbers: settings and origins.

    Raises:
      UserError: there is no config.json, or it cannot be read.
    """
    content = read_config(workdir)
    decisive = {"config": _comparable(content["config"]), "origins": content.get("origins", {})}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def read_results(workdir: Path) -> dict[str, Any] | None:
    """Returns the content of results.json; None where the run was not evaluated yet.

    Raises:
      UserError: it cannot be read.
    """
    path = workdir / "results.json"
    try:
        results = json.loads(path.read_bytes())
        return results if results["parts"] and "step" in results["checkpoint"] else None
    except (FileNotFoundError, KeyError):  # before the end of training it holds what is known then
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); {evaluate_again(workdir)}") from error


def evaluate_again(workdir: Path) -> str:
    """What to do where what evaluation writes is not there, or not of the run's weights."""
    return f"run python -m jaxbusi.main --mode=evaluate --workdir {workdir}"


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    data = {key: value for key, value in config["data"].items() if key not in _FREE}
    return {**config, "data": data}
