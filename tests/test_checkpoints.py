"""Saving and restoring: exactly, in the background, across device counts, and on a full disk."""

import functools
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxbusi.checkpoints import Checkpoints
from jaxbusi.errors import UserError
from jaxbusi.state import make_mesh
from tests.disks import fill
from tests.test_steps import make_batch, place, setup


@pytest.fixture(scope="module")
def trained():
    """A step function, a state that it has trained, and the mesh of both."""
    mesh = make_mesh()
    state, step = setup(mesh, average=True, ema_decay=0.5)
    for seed in range(2):
        state, _ = step(state, place(make_batch(seed=seed), mesh))
    return state, step, mesh


def assert_identical(one, other):
    for (path, x), y in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def copy(state):
    return jax.tree.map(lambda x: x.copy(), state)


def test_a_state_comes_back_bit_for_bit_although_it_was_donated(tmp_path, trained):
    state, step, mesh = trained
    state = copy(state)
    wanted = jax.device_get(state)
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(state)
    for seed in range(3):  # the buffers are given away while the save is under way
        state, _ = step(state, place(make_batch(seed=seed), mesh))
    checkpoints.wait()
    fresh, _ = setup(mesh, average=True)
    restored = checkpoints.restore(fresh, 2)
    checkpoints.close()
    assert_identical(wanted, jax.device_get(restored))
    assert restored.params["head"]["kernel"].sharding == fresh.params["head"]["kernel"].sharding


def test_a_state_moves_to_another_number_of_devices(tmp_path, trained):
    state, _, _ = trained
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(state)
    checkpoints.wait()
    other = make_mesh(jax.devices()[:1])
    fresh, step = setup(other, average=True)
    restored = checkpoints.restore(fresh, 2)
    checkpoints.close()
    assert_identical(jax.device_get(state), jax.device_get(restored))
    step(restored, place(make_batch(), other))  # usable there


def test_inference_reads_the_average_and_nothing_of_the_optimizer(tmp_path, trained):
    state, _, _ = trained
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(state)
    checkpoints.wait()
    checkpoints.close()
    for path in (tmp_path / "c" / "2" / "training").rglob("*"):
        if path.is_file():
            path.unlink()
    reader = Checkpoints(tmp_path / "c", read_only=True)
    variables = reader.restore_variables(state.variables(), 2)
    reader.close()
    assert_identical(jax.device_get(state.average), jax.device_get(variables))


def test_the_latest_and_the_best_are_kept(tmp_path, trained):
    state, _, _ = trained
    checkpoints = Checkpoints(tmp_path / "c", keep=1, best=True)
    for step, loss in enumerate([0.9, 0.3, 0.5, None, 0.6], 1):
        checkpoints.save(state.replace(step=np.int32(step)), validation_loss=loss)
    checkpoints.wait()
    assert checkpoints.latest_step() == 5
    assert checkpoints.best_step() == 2
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "5"]


def test_without_validation_there_is_no_best(tmp_path, trained):
    checkpoints = Checkpoints(tmp_path / "c", best=True)
    assert checkpoints.latest_step() is None
    checkpoints.save(trained[0], validation_loss=None)
    checkpoints.wait()
    assert checkpoints.best_step() is None
    checkpoints.close()


def test_saving_a_step_again_leaves_it(tmp_path, trained):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(trained[0])
    checkpoints.save(trained[0])
    checkpoints.wait()
    assert checkpoints.latest_step() == 2
    checkpoints.close()


def test_another_model_is_refused_in_one_line(tmp_path, trained):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(trained[0])
    checkpoints.wait()
    like = trained[0].variables()
    like["params"] = {**like["params"], "head": {"kernel": np.zeros((9, 3)), "bias": np.zeros(3)}}
    with pytest.raises(
        UserError, match=r"cannot be restored into this model: params/head/kernel has the shape \("
    ) as error:
        checkpoints.restore_variables(like, 2)
    assert "\n" not in str(error.value)
    checkpoints.close()


# What orbax's threads leave behind when they fail is not ours to collect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seen_before", [True, False])
def test_a_full_disk_leaves_the_checkpoint_before(
    small_disk: Path, trained, monkeypatch, seen_before
):
    state, _, mesh = trained
    checkpoints = Checkpoints(small_disk / "c", keep=2)
    checkpoints.save(state)
    checkpoints.wait()
    ballast = fill(small_disk)
    if not seen_before:  # the disk fills up while the save is under way
        monkeypatch.setattr("jaxbusi.checkpoints._check_space", lambda *_: None)

    def save() -> None:
        checkpoints.save(state.replace(step=np.int32(3)))
        checkpoints.wait()

    with pytest.raises(UserError, match="step 2 is intact; free space") as error:
        save()
    assert "\n" not in str(error.value)
    if seen_before:
        assert "MiB are needed" in str(error.value)
    checkpoints.close()
    ballast.unlink()
    again = Checkpoints(small_disk / "c", keep=2)
    assert again.latest_step() == 2
    fresh, _ = setup(mesh, average=True)
    assert_identical(jax.device_get(state), jax.device_get(again.restore(fresh, 2)))
    again.close()


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory, trained):
    """A folder with the checkpoints of steps 2 and 3; not to be written to."""
    folder = tmp_path_factory.mktemp("two") / "c"
    checkpoints = Checkpoints(folder, keep=2)
    for step in (2, 3):
        checkpoints.save(trained[0].replace(step=np.int32(step)))
    checkpoints.wait()
    checkpoints.close()
    return folder


def flip_in_the_largest(folder):
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate_the_largest(folder):
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_a_file(folder):
    next(path for path in sorted(folder.rglob("*")) if path.parent.name == "d").unlink()


def lose_the_checksums(folder):
    shutil.rmtree(folder / "checksums")


DAMAGES = [flip_in_the_largest, truncate_the_largest, lose_a_file, lose_the_checksums]


# What orbax's threads leave behind when they fail is not ours to collect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_set_aside_and_passed_over(
    tmp_path, trained, two_saved, damage, caplog
):
    state, _, mesh = trained
    shutil.copytree(two_saved, tmp_path / "c")
    damage(tmp_path / "c" / "3")
    fresh, _ = setup(mesh, average=True)
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.latest_step() == 3
    step, restored = checkpoints.newest(functools.partial(checkpoints.restore, fresh))
    assert step == 2
    assert_identical(jax.device_get(state), jax.device_get(restored))
    assert f"checkpoint {tmp_path / 'c' / '3'}" in caplog.text
    assert (tmp_path / "c" / "3.damaged").is_dir()
    checkpoints.save(state.replace(step=np.int32(3)))  # training comes by again
    checkpoints.wait()
    assert checkpoints.newest(functools.partial(checkpoints.restore, fresh))[0] == 3
    checkpoints.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_with_no_whole_checkpoint_nothing_is_changed(tmp_path, trained, two_saved):
    state, _, _ = trained
    shutil.copytree(two_saved, tmp_path / "c")
    for step in ("2", "3"):
        flip_in_the_largest(tmp_path / "c" / step / "average")
    before = sorted(tmp_path.rglob("*"))
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    with pytest.raises(UserError, match=r"none of the 2 checkpoints .* nothing was changed"):
        checkpoints.newest(functools.partial(checkpoints.restore_variables, state.variables()))
    checkpoints.close()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_whoever_only_reads_sets_nothing_aside(tmp_path, trained, two_saved):
    state, _, _ = trained
    shutil.copytree(two_saved, tmp_path / "c")
    flip_in_the_largest(tmp_path / "c" / "3" / "average")
    reader = Checkpoints(tmp_path / "c", read_only=True)
    step, _ = reader.newest(functools.partial(reader.restore_variables, state.variables()))
    reader.close()
    assert step == 2
    assert (tmp_path / "c" / "3").is_dir()
