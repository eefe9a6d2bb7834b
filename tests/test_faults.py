"""What may befall a run, done for real: it is named, nothing is lost, and the run goes on."""

import functools
import itertools
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import subprocess
from pathlib import Path

import filelock
import numpy as np
import pytest

from jaxbusi import loop
from jaxbusi.checkpoints import Checkpoints
from jaxbusi.data import busi, pipeline
from jaxbusi.data.store import ImageStore
from jaxbusi.errors import UserError
from jaxbusi.evaluation import figures
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.logs import RunLog, read_history
from jaxbusi.settings import Settings
from jaxbusi.state import abstract_variables, make_mesh
from jaxbusi.train import evaluate, train_and_evaluate
from jaxbusi.workdir import WorkdirInUseError
from tests.disks import fill
from tests.runs import make_config
from tests.test_checkpoints import flip_in_the_largest
from tests.tiny import TinyModel

pytestmark = pytest.mark.usefixtures("tiny_model")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, phantoms):
    """The results of a run that nothing befell, and its workdir; not to be written to."""
    with pytest.MonkeyPatch.context() as patch:
        from jaxbusi import train

        patch.setattr(train, "build_model", lambda *_: TinyModel(dropout=0.3))
        workdir = tmp_path_factory.mktemp("undisturbed") / "run"
        return train_and_evaluate(make_config(phantoms), workdir), workdir


def parameters(workdir):
    like = abstract_variables(TinyModel(), make_mesh(), image_size=16)
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    found = checkpoints.newest(functools.partial(checkpoints.restore_variables, like))
    checkpoints.close()
    return found


@pytest.mark.fault("two runs started in one workdir")
def test_a_second_run_in_the_workdir_is_refused(tmp_path, phantoms, undisturbed):
    _, workdir = undisturbed
    shutil.copytree(workdir, tmp_path / "run")
    with filelock.FileLock(tmp_path / "run" / ".lock"):
        (tmp_path / "run" / ".lock-holder").write_text("process 1 on node7 since now")
        with pytest.raises(WorkdirInUseError, match="in use by process 1 on node7 since now; wait"):
            train_and_evaluate(make_config(phantoms), tmp_path / "run")
        with pytest.raises(WorkdirInUseError):
            evaluate(None, tmp_path / "run")
    evaluate(None, tmp_path / "run")
    holder = (tmp_path / "run" / ".lock-holder").read_text()
    assert holder.startswith(f"process {os.getpid()} on {platform.node()} since 20")


@pytest.mark.fault("read-only workdir")
def test_a_workdir_that_cannot_be_written_to(small_disk, phantoms):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"cannot be made or written to \(Read-only file system\)"):
        train_and_evaluate(make_config(phantoms), small_disk)


def full_at(monkeypatch, disk, owner, name):
    """Fills the disk at the first call of a function; returns what to call to free it."""
    before = getattr(owner, name)

    def filled(*args, **kwargs):
        if not (disk / "ballast").exists():
            fill(disk)
        return before(*args, **kwargs)

    monkeypatch.setattr(owner, name, filled)

    def free():
        monkeypatch.setattr(owner, name, before)
        (disk / "ballast").unlink()

    return free


@pytest.mark.fault("disk full: log, predictions, figures")
@pytest.mark.parametrize("small_disk", ["64m"], indirect=True)
@pytest.mark.parametrize(
    ("owner", "name", "message"),
    [
        (RunLog, "write", r"the log in \S+/run cannot be written \(No space left on device\)"),
        (Predictions, "write_csv", r"predictions_test\.csv: cannot be written \(No space left"),
        (figures, "write_all", r"figures/\w+\.png: cannot be written \(No space left on device\)"),
    ],
)
def test_a_full_disk_leaves_whole_files_and_the_run_goes_on(
    small_disk, phantoms, monkeypatch, undisturbed, owner, name, message
):
    workdir = small_disk / "run"
    free = full_at(monkeypatch, small_disk, owner, name)
    with pytest.raises(UserError, match=message) as error:
        train_and_evaluate(make_config(phantoms), workdir)
    assert "\n" not in str(error.value)
    assert not list(workdir.rglob("*.part"))
    for path in workdir.rglob("*.json"):
        if "checkpoints" not in path.parts:
            json.loads(path.read_text())
    read_history(workdir)  # a line that was cut short is passed over
    free()
    assert train_and_evaluate(make_config(phantoms), workdir) == undisturbed[0]
    steps = [line["step"] for line in read_history(workdir)]
    assert steps == [6, 6, 12, 12]


@pytest.mark.fault("image deleted or changed during a run")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, "cannot be read (No such file or directory)"),
        (lambda path: path.write_bytes(b"another"), "the file changed while it was in use"),
    ],
)
def test_an_image_that_changes_during_the_run(
    tmp_path, phantoms, monkeypatch, undisturbed, change, message
):
    root = tmp_path / "set"
    shutil.copytree(phantoms, root)
    config = make_config(root, **{"data.cache_gib": 0.0})
    workdir, victim = tmp_path / "run", root / "benign" / "benign (2).png"
    content = victim.read_bytes()
    update = loop.Progress.update

    def at_the_fifth_step(self, *, step, **values):
        update(self, step=step, **values)
        if step == 5:
            change(victim)

    monkeypatch.setattr(loop.Progress, "update", at_the_fifth_step)
    with pytest.raises(UserError, match=re.escape(f"benign (2).png: {message}")):
        train_and_evaluate(config, workdir)
    monkeypatch.setattr(loop.Progress, "update", update)
    victim.write_bytes(content)
    assert train_and_evaluate(config, workdir) == undisturbed[0]


@pytest.mark.fault("clock that jumps")
def test_a_clock_that_jumps_changes_nothing(tmp_path, phantoms, monkeypatch, undisturbed):
    import time

    now, update = time.time, loop.Progress.update

    def jumping(self, *, step, **values):
        update(self, step=step, **values)
        shift = {3: 1e8, 8: -1e8}.get(step)
        if shift is not None:
            monkeypatch.setattr(time, "time", lambda: now() + shift)

    monkeypatch.setattr(loop.Progress, "update", jumping)
    results = train_and_evaluate(make_config(phantoms), tmp_path / "run")
    assert abs(time.time() - now()) > 1e7
    assert results == undisturbed[0]


@pytest.mark.fault("loader process killed")
def test_a_dead_loader_process_is_named(phantoms):
    settings = Settings.from_config(make_config(phantoms))
    records = busi.read_records(phantoms)
    store = ImageStore(records, resize=18, crop=16, cache_gib=1.0, on_bad="error")
    samples = pipeline.expand(range(30), [record.label for record in records], 1)
    batches = pipeline.train_batches(
        store, samples, settings.data.augment, seed=0, batch_size=8, workers=1
    )
    next(batches)
    [worker] = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"a loader process is dead \(.*exit code -9\)"):
        list(itertools.islice(batches, 50))


@pytest.mark.fault("checkpoint damaged during a run")
# What orbax's threads leave behind when they fail is not ours to collect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_training_goes_back_to_the_checkpoint_that_is_whole(
    tmp_path, phantoms, undisturbed, caplog
):
    results, workdir = undisturbed
    shutil.copytree(workdir, tmp_path / "run")
    for item in ("weights", "training"):
        flip_in_the_largest(tmp_path / "run" / "checkpoints" / "12" / item)
    assert train_and_evaluate(make_config(phantoms), tmp_path / "run") == results
    assert "going back to the checkpoint of step 6" in caplog.text
    assert (tmp_path / "run" / "checkpoints" / "12.damaged").is_dir()
    (step, one), (_, other) = parameters(tmp_path / "run"), parameters(workdir)
    assert step == 12
    for name in ("conv", "head"):
        np.testing.assert_array_equal(
            one["params"][name]["kernel"], other["params"][name]["kernel"]
        )


@pytest.mark.fault("loss or gradient not finite")
@pytest.mark.parametrize("name", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_diagnosed(tmp_path, phantoms, monkeypatch, name):
    config = make_config(phantoms, **{"optim.learning_rate": 1e38})
    if name == "gradient":
        config = make_config(phantoms)
        compile_step = loop.Loop._compile

        def broken(self, step_fn, frozen):
            step = compile_step(self, step_fn, frozen)

            def run(state, batch):
                state, report = step(state, batch)
                norms = {**report.gradient_norms, "head": np.float32("inf")}
                return state, report.replace(gradient_norm=np.float32("inf"), gradient_norms=norms)

            return run

        monkeypatch.setattr(loop.Loop, "_compile", broken)
    with pytest.raises(UserError, match=rf"the {name} of step \d+ is (nan|inf)") as error:
        train_and_evaluate(config, tmp_path)
    assert f"{tmp_path}/diagnosis.json has more" in str(error.value)
    found = json.loads((tmp_path / "diagnosis.json").read_text())
    assert found["step"] in (1, 2, 3)
    assert len(found["images"]) == 8
    for image in found["images"]:
        assert (phantoms / image["image"]).exists()
        assert image["image"].startswith(image["label"])
    assert set(found["gradient_norms"]) == {"conv", "norm", "head", "auxiliary"}
    if name == "gradient":
        assert found["gradient_norms"]["head"] == "inf"
        assert isinstance(found["loss"], float)
        assert "(in head)" in str(error.value)
    else:
        assert found["loss"] in ("nan", "inf")
