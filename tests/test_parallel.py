"""A study made by several programs at the same time."""

import json
import os
import signal
import sys

import filelock
import pytest

from configs import table4
from jaxbusi import parallel
from jaxbusi.campaign import run_study
from jaxbusi.errors import Stopped, UserError
from jaxbusi.parallel import run_programs
from tests.test_study import make_study

FLAGS = {
    "num_epochs": 1.0,
    "batch_size": 8,
    "data.copies": 2,
    "data.augment.resize": 18,
    "data.augment.crop": 16,
    "study.seeds": (0,),
    "study.arms": ("ResNet18", "ViT", "Fusion"),
}


def command(root, workdir):
    """A program that makes the whole study with the tiny model, and the study's config."""
    config = table4.get_config()
    config.update_from_flattened_dict({**FLAGS, "data.root": str(root)})
    flags = [f"--config.{name}={value}" for name, value in FLAGS.items()]
    words = ["study", "--config=configs/table4.py", f"--workdir={workdir}", *flags]
    words.append(f"--config.data.root={root}")
    return config, [sys.executable, "-m", "tests.cluster_worker", *words]


def test_two_programs_make_each_run_once(tmp_path, phantoms):
    config, words = command(phantoms, tmp_path)
    study = run_programs(config, tmp_path, words, 2)
    assert json.loads((tmp_path / "study.json").read_text()) == study
    assert all(run["finished"] for arm in study["arms"].values() for run in arm["runs"])
    holders = set()
    for arm in study["arms"]:
        run = tmp_path / arm / "seed0"
        holders.add((run / ".lock-holder").read_text().partition(" on ")[0])
        # Trained in one go, by one program.
        assert len(list((run / "tensorboard").glob("events.*"))) == 1
    assert len(holders) == 2
    assert f"process {os.getpid()}" not in holders
    logs = [(tmp_path / f"program{i}.log").read_text() for i in range(2)]
    assert all("run 3 of 3: Fusion, seed 0" in log for log in logs)


@pytest.mark.usefixtures("tiny_model")
def test_a_run_that_another_program_makes_is_passed_over(tmp_path, phantoms, caplog):
    config = make_study(phantoms, seeds=(0,))
    (tmp_path / "slow" / "seed0").mkdir(parents=True)
    (tmp_path / "fast" / "seed0").mkdir(parents=True)
    with filelock.FileLock(tmp_path / "slow" / "seed0" / ".lock"):
        with filelock.FileLock(tmp_path / "fast" / "seed0" / ".lock"):
            assert run_study(config, tmp_path) is None
        study = run_study(config, tmp_path)
    assert [run["finished"] for arm in study["arms"].values() for run in arm["runs"]] == [
        False,
        True,
    ]
    assert not (tmp_path / "slow" / "seed0" / "failure.txt").exists()
    study = run_study(config, tmp_path)
    assert all(run["finished"] for arm in study["arms"].values() for run in arm["runs"])


def test_programs_that_fail_are_named(tmp_path, phantoms, caplog):
    config, _ = command(phantoms, tmp_path)
    words = [sys.executable, "-c", "raise SystemExit(7)"]
    with pytest.raises(UserError, match=r"no run finished; .*/program0\.log says why"):
        run_programs(config, tmp_path, words, 2)
    assert "program 1 ended with status 7" in caplog.text


def test_a_signal_is_passed_on(tmp_path, phantoms, monkeypatch):
    config, _ = command(phantoms, tmp_path)
    waiting = "import signal, time; signal.signal(15, lambda *_: exit(143)); time.sleep(60)"
    monkeypatch.setattr(parallel, "_SECONDS", 2.0)  # time to start and to listen
    real = parallel._start

    def start(*args):
        program = real(*args)
        if args[2] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return program

    monkeypatch.setattr(parallel, "_start", start)
    with pytest.raises(Stopped, match="after saving the states of the runs") as stopped:
        run_programs(config, tmp_path, [sys.executable, "-c", waiting], 2)
    assert stopped.value.status == 143


def test_each_program_sees_a_device_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert parallel._only(1)["CUDA_VISIBLE_DEVICES"] == "5"
    with pytest.raises(UserError, match=r"CUDA_VISIBLE_DEVICES=2,5 has 2 devices; give --parallel"):
        parallel._only(2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert parallel._only(3)["CUDA_VISIBLE_DEVICES"] == "3"


def test_programs_that_were_started_end_where_a_later_one_cannot_be(
    tmp_path, phantoms, monkeypatch
):
    config, _ = command(phantoms, tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    started, real = [], parallel.subprocess.Popen
    monkeypatch.setattr(
        parallel.subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[-1]
    )
    with pytest.raises(UserError, match=r"has 1 devices; give --parallel=1"):
        run_programs(config, tmp_path, [sys.executable, "-c", "import time; time.sleep(60)"], 2)
    assert [program.returncode for program in started] == [-signal.SIGKILL]
