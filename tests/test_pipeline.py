"""Which image comes when, and that nothing but its name, copy, epoch and the seed decides how."""

import itertools
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from jaxbusi.data import pipeline
from jaxbusi.data.augment import AugmentSettings
from jaxbusi.data.records import Record
from jaxbusi.data.store import ImageStore
from jaxbusi.errors import UserError

SETTINGS = AugmentSettings(resize=20, crop=16)
IMAGES, COPIES = 5, 3
COUNT = IMAGES * COPIES


def write_records(folder):
    rng = np.random.default_rng(0)
    records = []
    for row in range(IMAGES):
        path = folder / f"{row}.png"
        shape = (24, 30, 3) if row == 1 else (24, 30)
        Image.fromarray(rng.integers(1, 256, shape, dtype=np.uint8)).save(path)
        records.append(Record(name=f"benign/{row}.png", label=row % 3, image=path))
    return records


def open_store(records, cache_gib=1.0):
    return ImageStore(records, resize=20, crop=16, cache_gib=cache_gib, on_bad="error")


@pytest.fixture
def records(tmp_path):
    return write_records(tmp_path)


@pytest.fixture
def store(records):
    return open_store(records)


@pytest.fixture
def samples(store):
    labels = [record.label for record in store.records]
    return pipeline.expand(range(IMAGES), labels, COPIES)


def train(store, samples, count, *, batch_size=4, seed=7, **options):
    """The first batches as one: the images, labels and rows of `count` steps."""
    batches = pipeline.train_batches(
        store, samples, SETTINGS, seed=seed, batch_size=batch_size, **options
    )
    return join(itertools.islice(batches, count))


def evaluate(store, samples, **options):
    options = {"seed": 7, "batch_size": 4} | options
    return list(pipeline.eval_batches(store, samples, SETTINGS, **options))


def join(batches):
    batches = list(batches)
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], strict=True)


def loader_threads():
    return [thread for thread in threading.enumerate() if "grain" in thread.name]


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_expand_numbers_the_copies_of_each_image():
    samples = pipeline.expand([4, 2], [1, 0], 3)
    assert len(samples) == 6
    np.testing.assert_array_equal(samples.image, np.int32([4, 4, 4, 2, 2, 2]), strict=True)
    np.testing.assert_array_equal(samples.copy, np.int32([0, 1, 2, 0, 1, 2]), strict=True)
    np.testing.assert_array_equal(samples.label, np.int32([1, 1, 1, 0, 0, 0]), strict=True)


def test_a_training_batch(store, samples):
    batch = next(pipeline.train_batches(store, samples, SETTINGS, seed=7, batch_size=4))
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "image": ((4, 16, 16, 3), "uint8"),
        "label": ((4,), "int32"),
        "index": ((4,), "int32"),
        "view": ((4,), "int32"),
    }
    np.testing.assert_array_equal(batch["label"], samples.label[batch["index"]])


def test_every_epoch_has_every_sample_once_in_its_own_order(store, samples):
    epochs = train(store, samples, 15)["index"].reshape(4, COUNT)  # 15 batches of 4: 4 epochs
    for epoch in epochs:
        assert sorted(epoch) == list(range(COUNT))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    others = train(store, samples, 15, seed=8)["index"].reshape(4, COUNT)
    assert not {tuple(epoch) for epoch in epochs} & {tuple(epoch) for epoch in others}


def test_views_come_again_and_can_be_had_in_order(store, samples):
    """Four epochs of two views: each sample's images are those of `eval_batches` with that view."""
    sequence = train(store, samples, 15, views=2)
    np.testing.assert_array_equal(sequence["view"], np.repeat([0, 1, 0, 1], COUNT))
    ordered = [join(evaluate(store, samples, view=view))["image"][:COUNT] for view in (0, 1)]
    assert np.any(ordered[0] != ordered[1])
    for view, row, image in zip(
        sequence["view"], sequence["index"], sequence["image"], strict=True
    ):
        np.testing.assert_array_equal(image, ordered[view][row])
    fresh = train(store, samples, 15)
    np.testing.assert_array_equal(fresh["view"], np.repeat([0, 1, 2, 3], COUNT))
    np.testing.assert_array_equal(fresh["image"][: 2 * COUNT], sequence["image"][: 2 * COUNT])
    assert np.any(fresh["image"][2 * COUNT :] != sequence["image"][2 * COUNT :])


@pytest.fixture
def uneven(store):
    """Fifteen samples: 9 of class 0, 3 of class 1, 3 of class 2."""
    return pipeline.expand(range(IMAGES), [0, 0, 0, 1, 2], COPIES)


def test_balanced_epochs_keep_their_length_and_share_it_among_the_classes(store, uneven):
    sequence = train(store, uneven, 30, balanced=True, batch_size=4)  # 8 epochs of 15
    epochs = sequence["label"].reshape(8, COUNT)
    for epoch in epochs:
        np.testing.assert_array_equal(np.bincount(epoch), [5, 5, 5])
    # Every sample of a class once before any comes again, if not in one epoch.
    for label, samples in ((0, 9), (1, 3), (2, 3)):
        rows = sequence["index"][sequence["label"] == label]
        counts = np.bincount(rows)[np.flatnonzero(uneven.label == label)]
        assert counts.min() >= 40 // samples - 1
        assert counts.max() <= 40 // samples + 2
    # Shuffled, else a micro-batch, every third image, could hold a single class.
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert any(len(set(epoch[::3])) > 1 for epoch in epochs)
    natural = train(store, uneven, 30)["label"].reshape(8, COUNT)
    for epoch in natural:
        np.testing.assert_array_equal(np.bincount(epoch), [9, 3, 3])


def test_a_balanced_sample_never_looks_the_same_twice(store, uneven):
    sequence = train(store, uneven, 30, balanced=True)
    assert len({image.tobytes() for image in sequence["image"]}) == 120
    others = train(store, uneven, 30, balanced=True, seed=8)
    assert not np.array_equal(sequence["index"], others["index"])


def test_a_balanced_run_goes_on_where_it_stopped_on_any_number_of_hosts(store, uneven):
    whole = train(store, uneven, 12, balanced=True)
    rest = train(store, uneven, 5, balanced=True, start_step=7)
    assert_same({key: value[28:48] for key, value in whole.items()}, rest)
    halves = [
        train(store, uneven, 12, balanced=True, shard=(index, 2))["index"].reshape(12, 2)
        for index in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1).ravel(), whole["index"])


def test_balanced_sampling_without_a_class(store):
    samples = pipeline.expand(range(IMAGES), [0, 0, 0, 2, 2], COPIES)
    labels = train(store, samples, 15, balanced=True)["label"].reshape(4, COUNT)
    for epoch in labels:
        assert sorted(np.bincount(epoch, minlength=3).tolist()) == [0, 7, 8]


def test_every_copy_and_epoch_looks_different(store, samples):
    sequence = train(store, samples, 15)
    others = train(store, samples, 15, seed=8)
    looks = {image.tobytes() for batch in (sequence, others) for image in batch["image"]}
    assert len(looks) == 2 * 4 * COUNT


def test_batches_do_not_depend_on_their_size(store, samples):
    expected = train(store, samples, 15, batch_size=4)
    for size in (1, 6, 20, 60):
        assert_same(train(store, samples, 60 // size, batch_size=size), expected)


def test_a_run_goes_on_where_it_stopped(store, samples):
    whole = train(store, samples, 12)
    rest = train(store, samples, 5, start_step=7)
    assert_same({key: value[28:48] for key, value in whole.items()}, rest)


@pytest.mark.parametrize("count", [2, 3])
def test_shards_are_parts_of_the_same_batches(store, samples, count):
    whole = pipeline.train_batches(store, samples, SETTINGS, seed=7, batch_size=6, start_step=3)
    shards = [
        pipeline.train_batches(
            store, samples, SETTINGS, seed=7, batch_size=6, start_step=3, shard=(index, count)
        )
        for index in range(count)
    ]
    for _ in range(8):
        assert_same(join([next(shard) for shard in shards]), next(whole))


def test_an_image_looks_the_same_in_another_set(records, store, samples):
    """Its name counts, not its row or its neighbours."""
    half = open_store(records[::-2])
    others = pipeline.expand(range(3), [record.label for record in half.records], COPIES)
    looks = {}
    for images, rows in ((store, samples), (half, others)):
        epochs = -(-2 * len(rows) // 3)  # two epochs in batches of 3
        sequence = train(images, rows, epochs, batch_size=3)
        for position, (row, image) in enumerate(
            zip(sequence["index"], sequence["image"], strict=True)
        ):
            name = images.records[rows.image[row]].name
            key = name, int(rows.copy[row]), position // len(rows)
            looks.setdefault(key, []).append(image.tobytes())
    shared = [found for found in looks.values() if len(found) == 2]
    assert len(shared) == 3 * COPIES * 2
    assert all(first == second for first, second in shared)


def test_streaming_gives_the_same_batches(records, store, samples):
    streamed = open_store(records, cache_gib=0)
    assert_same(train(streamed, samples, 6), train(store, samples, 6))
    assert_same(join(evaluate(streamed, samples)), join(evaluate(store, samples)))


@pytest.mark.parametrize(("cache_gib", "threads"), [(1.0, 1), (0.0, 2)])
def test_loading_ahead_is_bounded(records, samples, monkeypatch, cache_gib, threads):
    store = open_store(records, cache_gib)
    monkeypatch.setattr(pipeline, "usable_cores", lambda: 2)
    loaded = []
    base = store.base
    monkeypatch.setattr(store, "base", lambda row: loaded.append(row) or base(row))
    batches = pipeline.train_batches(store, samples, SETTINGS, seed=0, batch_size=4)
    next(batches)
    ahead = (1 + (threads + 1)) * 4  # the batch that was asked for, and those of the buffer
    assert wait_until(lambda: len(loaded) == ahead)
    assert not wait_until(lambda: len(loaded) > ahead, seconds=0.3)
    assert len(loader_threads()) == threads
    batches.close()


def test_closing_early_ends_the_threads(store, samples):
    wait_until(lambda: not loader_threads())
    batches = pipeline.train_batches(store, samples, SETTINGS, seed=0, batch_size=4)
    next(batches)
    assert loader_threads()
    batches.close()
    assert wait_until(lambda: not loader_threads())


def test_an_error_while_loading_reaches_the_caller(records, samples):
    streamed = open_store(records, cache_gib=0)
    batches = pipeline.train_batches(streamed, samples, SETTINGS, seed=0, batch_size=COUNT - 1)
    next(batches)
    records[2].image.write_bytes(records[0].image.read_bytes())
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    with pytest.raises(UserError, match=r"^benign/2\.png: the file changed"):
        for _ in pipeline.to_device(batches, mesh, depth=1):
            pass
    assert wait_until(lambda: not loader_threads())


def test_worker_processes_give_the_same_batches_and_errors(records, store, samples):
    streamed = open_store(records, cache_gib=0)
    batches = pipeline.train_batches(
        streamed, samples, SETTINGS, seed=7, batch_size=4, start_step=1, workers=2
    )
    found = list(itertools.islice(batches, 9))
    assert {type(value) for batch in found for value in batch.values()} == {np.ndarray}
    assert_same(join(found), train(store, samples, 9, start_step=1))
    assert len(multiprocessing.active_children()) == 2
    records[3].image.unlink()
    with pytest.raises(UserError, match=r"^benign/3\.png: cannot be read"):
        list(itertools.islice(batches, 20))
    assert wait_until(lambda: not multiprocessing.active_children())


def test_evaluation_has_every_sample_once_in_order(store, samples):
    batches = evaluate(store, samples)
    assert [len(batch["image"]) for batch in batches] == [4, 4, 4, 4]
    whole = join(batches)
    np.testing.assert_array_equal(whole["mask"], np.arange(16) < COUNT, strict=True)
    np.testing.assert_array_equal(whole["index"], np.int32([*range(COUNT), -1]), strict=True)
    np.testing.assert_array_equal(whole["label"], np.int32([*samples.label, 0]), strict=True)
    assert whole["image"].dtype == np.uint8
    assert not whole["image"][COUNT].any()


def test_copy_0_is_the_image_itself_and_the_others_stay_the_same(store, samples):
    first, again = join(evaluate(store, samples)), join(evaluate(store, samples, batch_size=5))
    for row in range(COUNT):
        itself = store.view(samples.image[row])
        assert np.array_equal(first["image"][row], itself) == (samples.copy[row] == 0)
        np.testing.assert_array_equal(again["image"][row], first["image"][row])
    training = train(store, samples, 15, batch_size=1)
    for row, image in zip(training["index"], training["image"], strict=True):
        assert np.array_equal(first["image"][row], image) == (samples.copy[row] > 0)  # epoch 0
    other = join(evaluate(store, samples, seed=8))
    same = [np.array_equal(a, b) for a, b in zip(first["image"], other["image"], strict=True)]
    assert same[:COUNT] == [copy == 0 for copy in samples.copy]


@pytest.mark.parametrize("count", [2, 4])
def test_evaluation_shards_are_parts_of_the_same_batches(store, samples, count):
    whole = evaluate(store, samples, batch_size=8)
    shards = [evaluate(store, samples, batch_size=8, shard=(i, count)) for i in range(count)]
    assert [len(shard) for shard in shards] == [len(whole)] * count
    for step, batch in enumerate(whole):
        assert_same(join([shard[step] for shard in shards]), batch)


def test_nothing_to_evaluate_gives_no_batches(store):
    assert evaluate(store, pipeline.expand([], [], 5)) == []


def test_nothing_to_train_on_is_refused(store):
    with pytest.raises(ValueError, match="no samples"):
        train(store, pipeline.expand([], [], 5), 1)


def test_a_batch_that_does_not_divide_is_refused(store, samples):
    message = "config.batch_size=4 is not divisible .* multiple of 3"
    with pytest.raises(UserError, match=message):
        train(store, samples, 1, shard=(0, 3))
    with pytest.raises(UserError, match=message):
        evaluate(store, samples, shard=(2, 3))


def test_a_store_of_other_sizes_is_refused(store, samples):
    with pytest.raises(ValueError, match="20 and 16 pixels, the augmentation wants 256 and 224"):
        pipeline.train_batches(store, samples, AugmentSettings(), seed=0, batch_size=4)


def test_batches_reach_the_devices(store, samples):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    batches = pipeline.eval_batches(store, samples, SETTINGS, seed=7, batch_size=4)
    pairs = list(pipeline.to_device(batches, mesh))
    assert len(pairs) == 4
    for host, device in pairs:
        for key, array in device.items():
            assert array.sharding.is_equivalent_to(
                NamedSharding(mesh, PartitionSpec("data")), array.ndim
            )
            assert len(array.addressable_shards) == 2
            np.testing.assert_array_equal(np.asarray(array), host[key], strict=True)
    assert_same(join(host for host, _ in pairs), join(evaluate(store, samples)))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_batches_are_on_the_devices_ahead_of_use(depth):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    drawn, closed = [], []

    def source():
        try:
            for step in itertools.count():
                drawn.append(step)
                yield {"label": np.full(2, step, np.int32)}
        finally:
            closed.append(True)

    pairs = pipeline.to_device(source(), mesh, depth)
    for step in range(5):
        host, device = next(pairs)
        assert host["label"][0] == device["label"][0] == step
        assert len(drawn) == step + depth
    pairs.close()
    assert closed == [True]


def test_two_processes_see_one_batch(tmp_path):
    """Each loads its half; the global batch is the one that a single process would load."""
    script = textwrap.dedent(
        """
        import pathlib, sys
        import jax, numpy as np
        from jax.experimental import multihost_utils
        from jax.sharding import AxisType
        from jaxbusi.data import pipeline
        from tests.test_pipeline import SETTINGS, open_store, write_records

        rank, address, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
        jax.distributed.initialize(address, 2, rank)
        mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
        store = open_store(write_records(folder))
        samples = pipeline.expand(range(5), [0, 1, 2, 0, 1], 3)
        batches = pipeline.train_batches(
            store, samples, SETTINGS, seed=7, batch_size=8, shard=(rank, 2)
        )
        host, device = next(pipeline.to_device(batches, mesh))
        assert host["image"].shape == (4, 16, 16, 3)
        assert device["image"].shape == (8, 16, 16, 3)
        whole = pipeline.train_batches(store, samples, SETTINGS, seed=7, batch_size=8)
        expected = next(whole)
        for key, array in device.items():
            gathered = multihost_utils.process_allgather(array, tiled=True)
            np.testing.assert_array_equal(gathered, expected[key], strict=True)
        print("same batch")
        """
    )
    port = 20000 + os.getpid() % 20000
    processes = []
    for rank in range(2):
        folder = tmp_path / str(rank)
        folder.mkdir()
        command = [sys.executable, "-c", script, str(rank), f"localhost:{port}", str(folder)]
        processes.append(
            subprocess.Popen(
                command,
                cwd=Path(__file__).parents[1],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        for process in processes:
            output, _ = process.communicate(timeout=100)
            assert process.returncode == 0, output
            assert "same batch" in output
    finally:
        for process in processes:
            process.kill()
