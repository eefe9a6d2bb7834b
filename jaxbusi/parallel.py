"""A study's runs on the devices of one machine: a program for each, all making the same study."""

import logging
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxbusi import campaign
from jaxbusi.errors import Stopped, UserError
from jaxbusi.logs import progress_bar
from jaxbusi.plan import Plan
from jaxbusi.stopping import StopSignals

_SECONDS = 0.5
"""Between two looks at the programs."""


def run_programs(
    config: Mapping[str, Any], workdir: str | Path, command: Sequence[str], count: int
) -> dict[str, Any]:
    """Starts `count` programs that share a study, waits for them and writes the comparison.

    Program i sees device i only. What it prints is in the study's folder, in program<i>.log.

    Args:
      config: of the study.
      workdir: of the study.
      command: that makes the study in one program.
      count: programs, 1 or more; on GPUs and TPUs no more than there are devices.

    Returns:
      The content of study.json.

    Raises:
      UserError: bad settings, or no run finished.
      Stopped: SIGTERM or SIGINT arrived; the programs have saved their states.
    """
    # The devices are the programs': this one would take their memory as soon as it looked at them.
    jax.config.update("jax_platforms", "cpu")
    workdir = Path(workdir)
    plan = Plan.from_config(config, workdir)
    campaign.check_before(plan)
    signals = StopSignals()
    with signals.watch():
        programs: list[subprocess.Popen[bytes]] = []
        try:
            for i in range(count):
                programs.append(_start(command, workdir / f"program{i}.log", i))
            _wait(plan, programs, signals)
        finally:  # also where a later one could not be started
            for program in programs:
                program.kill()
                program.wait()
    for number, program in enumerate(programs):
        if program.returncode not in (0, 1):  # 1: runs failed, which the comparison says
            logging.error(
                "program %d ended with status %d; %s says why",
                *(number, program.returncode, workdir / f"program{number}.log"),
            )
    if signals.received is not None:
        raise Stopped(signals.received)
    if not any(campaign.is_finished(run) for run in plan.runs):
        raise UserError(f"no run finished; {workdir}/program0.log says why")
    return campaign.conclude(plan, config, workdir)


def _start(command: Sequence[str], log: Path, device: int) -> "subprocess.Popen[bytes]":
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            env={**os.environ, **_only(device)},
            # A signal from the keyboard goes to this program, which passes it on.
            start_new_session=True,
        )


def _only(device: int) -> dict[str, str]:
    """The environment in which JAX sees one device of several; on the CPU it changes nothing."""
    chosen = {}
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS"):
        visible = os.environ.get(name)
        listed = visible.split(",") if visible else None
        if listed is not None and device >= len(listed):
            raise UserError(
                f"{name}={visible} has {len(listed)} devices; give --parallel={len(listed)}"
            )
        chosen[name] = listed[device] if listed else str(device)
    return chosen | {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}


def _wait(plan: Plan, programs: list["subprocess.Popen[bytes]"], signals: StopSignals) -> None:
    """Until all have ended; a signal is passed on once."""
    told = False
    with progress_bar(len(plan.runs), "study", "run") as bar:
        while any(program.poll() is None for program in programs):
            time.sleep(_SECONDS)
            bar.update(sum(map(campaign.is_finished, plan.runs)) - bar.n)
            if signals.received is not None and not told:
                told = True
                for program in programs:
                    program.send_signal(signals.received)
