"""Starts the processes of a cluster on this machine, over loopback."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Ended(NamedTuple):
    status: int
    output: str


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port: int = listener.getsockname()[1]
        return port


def run_cluster(
    arguments: Sequence[str],
    processes: int,
    devices: int,
    befalls: Mapping[int, Mapping[str, str]] | None = None,
    timeout: float = 240.0,
) -> list[Ended]:
    """Runs `cluster_worker` with these arguments in several processes of several fake devices.

    Args:
      arguments: command and flags, the same for all.
      processes: how many; one is started without a coordinator.
      devices: of each process.
      befalls: by process, variables of its environment.
      timeout: seconds for all to end.
    """
    port = free_port()
    started = []
    with contextlib.ExitStack() as stack:
        for rank in range(processes):
            meeting = [
                f"--coordinator=localhost:{port}",
                f"--processes={processes}",
                f"--process={rank}",
            ]
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.cluster_worker"),
                    *arguments,
                    *(meeting if processes > 1 else []),
                ],
                cwd=ROOT,
                env={
                    **os.environ,
                    "JAX_PLATFORMS": "cpu",
                    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                    **(befalls or {}).get(rank, {}),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            stack.callback(process.kill)
            started.append(process)
        return [
            Ended(process.returncode, output)
            for process, (output, _) in [(p, p.communicate(timeout=timeout)) for p in started]
        ]
