"""Several processes as one program: how they find each other, and how they stay in step.

JAX's own distributed runtime connects them. What decides which steps are taken has to come out the
same on all of them, or they would wait for each other for ever: one decides it, and shares it.
"""

import dataclasses
import importlib.util
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import absl.logging
import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxbusi.errors import UserError

_T = TypeVar("_T")

HEARTBEAT_SECONDS = 30
"""A process that is silent for so long is taken for dead, and the others end."""


@dataclasses.dataclass(frozen=True)
class Address:
    """Where one process meets the others: the same for all but for `process`.

    Attributes:
      coordinator: host and port of process 0, which it opens: `node01:9911`.
      processes: how many there are.
      process: which of them this is, from 0.
    """

    coordinator: str
    processes: int
    process: int


def connect(address: Address | None = None) -> None:
    """Connects this process with the others of its job; does nothing where it is alone.

    Call before anything asks JAX for devices. Without an address, the job's manager is asked: SLURM
    or Open MPI with more than one task, a TPU pod, or an indexed Kubernetes job. A process that the
    others do not reach within five minutes ends, and says so.

    Args:
      address: where to meet, or None to find out.

    Raises:
      UserError: the address cannot be one, or the manager's answer cannot be used.
    """
    manager = None if address else _manager()
    if address is None and manager is None:
        return
    # It would swallow SIGTERM where nobody asks for it; `stopping.Agreement` does its work.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if address is not None:
            _check(address)
            logging.info(
                "process %d of %d waits up to 300 s for the others at %s",
                *(address.process, address.processes, address.coordinator),
            )
            jax.distributed.initialize(
                address.coordinator,
                address.processes,
                address.process,
                cluster_detection_method="deactivate",
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
        else:
            logging.info("%s started this process; waiting for the others up to 300 s", manager)
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:
        if manager == _TPU and "coordinator_address" in str(error):
            return  # a TPU of one host, which needs no others
        reason = " ".join(str(error).split())
        where = address.coordinator if address else manager
        raise UserError(
            f"cannot connect to the other processes by {where} ({reason}); give --coordinator, "
            "--processes and --process yourself, or start a single process"
        ) from error
    logging.info("process %d of %d", jax.process_index(), jax.process_count())
    if jax.process_index() > 0:
        absl.logging.set_verbosity(absl.logging.WARNING)  # the first alone reports


def share(value: _T) -> _T:
    """Returns what process 0 gives, on every process; all have to call it.

    Args:
      value: of JSON's types; read on process 0 only.
    """
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    buffer = content if jax.process_index() == 0 else np.zeros(size, np.uint8)
    shared = np.asarray(multihost_utils.broadcast_one_to_all(buffer))
    result: _T = json.loads(shared.astype(np.uint8).tobytes())
    return result


def on_first(work: Callable[[], _T]) -> _T:
    """Lets process 0 do something while the others wait, and returns what it returns on all.

    Args:
      work: returns what JSON can hold.

    Raises:
      UserError: process 0 raised one; every process does.
    """
    if jax.process_count() == 1:
        return work()
    outcome: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            outcome["value"] = work()
        except UserError as error:
            outcome["error"] = str(error)
    outcome = share(outcome)
    if "error" in outcome:
        raise UserError(outcome["error"])
    value: _T = outcome["value"]
    return value


def leave(status: int) -> NoReturn:
    """Ends a process that failed, without waiting for the others as Python's exit would.

    They wait for it in the middle of a step, and notice at once that it is gone.
    """
    if jax.distributed.is_initialized():
        time.sleep(3)  # where all failed alike, each says so before the first is gone
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


_TPU = "a TPU pod"


def _manager() -> str | None:
    """Who started this process together with others, as far as the environment says."""

    def number(name: str) -> int:
        return int(os.environ.get(name, "0"))

    if number("SLURM_NTASKS") > 1 and {"SLURM_PROCID", "SLURM_STEP_NODELIST"} <= set(os.environ):
        return "SLURM"
    if number("OMPI_COMM_WORLD_SIZE") > 1 and "OMPI_MCA_orte_hnp_uri" in os.environ:
        return "Open MPI"
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(os.environ):
        if importlib.util.find_spec("kubernetes") is None:
            raise UserError(
                "this is a pod of an indexed Kubernetes job; to find the others, install jax[k8s], "
                "or give --coordinator, --processes and --process"
            )
        return "Kubernetes"
    return _TPU if importlib.util.find_spec("libtpu") else None


def _check(address: Address) -> None:
    host, _, port = address.coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(
            f"--coordinator={address.coordinator} must be HOST:PORT of process 0, as node01:9911"
        )
    if not 0 <= address.process < address.processes:
        raise UserError(
            f"--process={address.process} must be one of 0 to {address.processes - 1}, as "
            f"--processes={address.processes} says"
        )
