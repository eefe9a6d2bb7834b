"""Batches: which image comes when, augmented how, and onto the devices.

Everything random is a function of names, never of position or history. The augmentation of a copy
depends on (seed, image name, copy, epoch); the order of an epoch on (seed, epoch). A run therefore
sees the same batches whatever its workers, threads and hosts, and goes on from a step by its number
alone.
"""

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Generator, Iterator

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import ArrayLike

from jaxbusi.data.augment import AugmentSettings, augment
from jaxbusi.data.store import ImageStore, usable_cores
from jaxbusi.errors import UserError

Batch = dict[str, np.ndarray]
"""On the host: image uint8[B, crop, crop, 3], label int32[B], and index int32[B], the row of the
samples; training adds view int32[B], the epoch whose augmentation it is, and evaluation mask
bool[B]."""

_MOST_THREADS = 16  # each holds a batch of its own


@dataclasses.dataclass(frozen=True)
class Samples:
    """What a part of the data consists of: copies of images.

    Attributes:
      image: int32[N], row of the store.
      copy: int32[N], number of the copy, from 0.
      label: int32[N], index into `CLASSES`.
    """

    image: np.ndarray
    copy: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: np.ndarray) -> "Samples":
        """Returns the samples of int[M] rows."""
        return Samples(self.image[rows], self.copy[rows], self.label[rows])


def expand(rows: ArrayLike, labels: ArrayLike, copies: ArrayLike, first: ArrayLike = 0) -> Samples:
    """Expands images into copies (section 2.2: five-fold), the copies of an image in sequence.

    Args:
      rows: int[M], rows of the store.
      labels: int[M], the label of each row.
      copies: int[M] or one int, of each image.
      first: int[M] or one int, number of the first copy of each image.
    """
    rows = np.asarray(rows, np.int32)
    counts = np.broadcast_to(np.asarray(copies, np.int32), rows.shape)
    shift = np.asarray(first) - (np.cumsum(counts) - counts)
    return Samples(
        image=np.repeat(rows, counts),
        copy=np.arange(counts.sum(), dtype=np.int32) + np.repeat(shift, counts).astype(np.int32),
        label=np.repeat(np.asarray(labels, np.int32), counts),
    )


def train_batches(
    store: ImageStore,
    samples: Samples,
    settings: AugmentSettings,
    *,
    seed: int,
    batch_size: int,
    balanced: bool = False,
    views: int = 0,
    start_step: int = 0,
    workers: int = 0,
    shard: tuple[int, int] = (0, 1),
    images: bool = True,
) -> Generator[Batch]:
    """Endless augmented batches; every sample once an epoch, in a new order each epoch.

    Balanced, an epoch has as many samples and each class the same share of them; the classes that
    are rarer than that go through their samples more than once, each time augmented anew.

    Batches cross the border between epochs, so that none is cut short: the paper's 3120 copies are
    48.75 batches of 64. Batches are made ahead by threads or, for a device that takes more than one
    core can make, by processes. Each process holds a copy of what the store keeps, takes seconds to
    start, and hands over its batches at the cost of another third of the work; a program that asks
    for them must guard its entry with `if __name__ == '__main__'`.

    Args:
      store: the images; made with the sizes of `settings`.
      samples: what an epoch consists of; all copies are augmented, copy 0 too.
      settings: the augmentation.
      seed: decides order and augmentation.
      batch_size: samples a step, over all shards.
      balanced: whether each class comes as often as the others.
      views: after so many epochs their augmentations come again; 0 augments every epoch anew.
      start_step: the number of steps already taken; the batches are those that follow.
      workers: processes; 0 uses threads of this one.
      shard: (index, count); of each batch, this is the index-th of count equal parts in sequence.
      images: whether anybody looks at them; else they have no pixels, uint8[B, 0, 0, 3].

    Returns:
      An iterator over batches of batch_size / count samples. Closing it ends threads and processes.

    Raises:
      UserError: batch_size is not divisible by the number of shards. While iterating: a file
        changed or went away.
      ValueError: there are no samples, or the store was made with other sizes.
    """
    local = _share(batch_size, shard)
    if len(samples) == 0:
        raise ValueError("there are no samples to train on")
    loader = _Loader(store, samples, settings, seed, views, images)
    if balanced:
        plan = _balanced_order(samples.label, seed)
    else:
        plan = _endless(np.arange(len(samples)), _order_seed(seed, 0))
    # Shards are taken after the epoch is known.
    plan = plan.batch(local, drop_remainder=True)[shard[0] :: shard[1]][start_step:]
    return _iterate(plan.map(loader.train), _threads(store), workers)


def _endless(rows: np.ndarray, seed: int) -> grain.MapDataset[np.ndarray]:
    """All of int[N] rows once an epoch, in a new order each: pairs of epoch and row, int[2]."""
    count = len(rows)
    plan = grain.MapDataset.source(rows).shuffle(seed=seed).repeat(None)
    return plan.map_with_index(lambda position, row: np.array([position // count, row]))


def _balanced_order(labels: np.ndarray, seed: int) -> grain.MapDataset[np.ndarray]:
    """Rows of int[N] labels, each class in turn, shuffled over epochs of N: as `_endless`.

    A row's epoch is that of its class, so that no two of its augmentations are the same.
    """
    classes = [
        _endless(np.flatnonzero(labels == label), _order_seed(seed, 0, int(label)))
        for label in np.unique(labels)
    ]
    # Grain adds the number of the epoch to the seed, which has to stay below 2**32.
    return grain.experimental.WindowShuffleMapDataset(
        grain.MapDataset.mix(classes), window_size=len(labels), seed=_order_seed(seed, 1) // 2
    )


def _order_seed(seed: int, *key: int) -> int:
    """A seed for grain, which gives epoch e the order of seed + e.

    Scrambled, so that the run's seeds 0 and 1 have no order in common.
    """
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])


def eval_batches(
    store: ImageStore,
    samples: Samples,
    settings: AugmentSettings,
    *,
    seed: int,
    batch_size: int,
    view: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Generator[Batch]:
    """All samples once, in order; copy 0 is the image itself, the others are augmented.

    The augmentation is that of epoch 0, and so the same at every evaluation. With `view` given it
    is instead what training sees in that epoch, copy 0 augmented too.

    The last batch is filled up to the full size with black images of label 0 and index -1, where
    `mask` is False, so that one compiled shape serves all; every shard gets the same number of
    batches.

    Args:
      store: the images; made with the sizes of `settings`.
      samples: what to evaluate; none gives no batches.
      settings: the augmentation of copies.
      seed: decides the augmentation of copies.
      batch_size: samples a step, over all shards.
      view: an epoch of training, or None for what evaluation sees.
      shard: (index, count); of each batch, this is the index-th of count equal parts in sequence.

    Returns:
      An iterator over batches of batch_size / count samples with `mask`. Closing it ends threads.

    Raises:
      UserError: batch_size is not divisible by the number of shards. While iterating: a file
        changed or went away.
      ValueError: the store was made with other sizes.
    """
    local = _share(batch_size, shard)
    loader = _Loader(store, samples, settings, seed)
    padded = -(-len(samples) // batch_size) * batch_size
    plan = grain.MapDataset.range(padded).batch(local)[shard[0] :: shard[1]]
    evaluate = functools.partial(loader.evaluate, view=view)
    return _iterate(plan.map(evaluate), _threads(store))


def to_device(
    batches: Iterator[Batch], mesh: Mesh, depth: int = 2
) -> Generator[tuple[Batch, dict[str, jax.Array]]]:
    """Puts batches on the devices ahead of their use.

    Args:
      batches: of this process; together the processes' batches are the global ones.
      mesh: its axis `data` divides the samples over the devices.
      depth: how many batches are on the devices at a time, the one in use included.

    Yields:
      The batch on the host and the global batch on the devices, with the same keys. Images stay
      uint8, a quarter of the bytes: the model turns them into floats.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def put(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, array)

    ahead: collections.deque[tuple[Batch, dict[str, jax.Array]]] = collections.deque()
    try:
        for batch in batches:
            ahead.append((batch, {key: put(array) for key, array in batch.items()}))
            if len(ahead) >= depth:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
    finally:
        if isinstance(batches, Generator):
            batches.close()


def _share(batch_size: int, shard: tuple[int, int]) -> int:
    """One shard's part of a batch."""
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard {index} of {count} does not exist")
    if batch_size % count:
        raise UserError(
            f"config.batch_size={batch_size} is not divisible by the number of processes; choose "
            f"a multiple of {count}"
        )
    return batch_size // count


def _threads(store: ImageStore) -> int:
    """How many threads make batches.

    Decoding keeps Python's lock released for milliseconds, and so runs on all cores at once. The
    augmentation alone releases it for microseconds at a time: two threads were measured to make no
    more than one, and to spend half as much again on waiting for each other.
    """
    return 1 if store.cached else min(usable_cores(), _MOST_THREADS)


def _iterate(plan: grain.MapDataset[Batch], threads: int, workers: int = 0) -> Generator[Batch]:
    """Makes the batches of `plan` ahead, and lets go of threads and processes at the end."""
    if workers:
        # Grain's worker processes ask for its command line flags, which a notebook never parses.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        dataset = plan.to_iter_dataset(read).mp_prefetch(processes)
    else:
        # Grain's default would keep 500 batches.
        read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
        dataset = plan.to_iter_dataset(read)
    iterator = iter(dataset)
    try:
        for batch in iterator:
            # What processes hand over lies in shared memory that is gone with the batch, also for
            # those who still hold a part of it.
            yield {key: np.array(value) for key, value in batch.items()} if workers else batch
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise UserError(
            f"a loader process is dead ({str(error).partition('.')[0]}), often for want of memory; "
            "lower config.data.workers and run the same command again: it goes on from the last "
            "checkpoint"
        ) from error
    finally:
        iterator.close()


class _Loader:
    """Turns rows of the samples into batches. Travels to worker processes."""

    def __init__(
        self,
        store: ImageStore,
        samples: Samples,
        settings: AugmentSettings,
        seed: int,
        views: int = 0,
        images: bool = True,
    ):
        if (store.resize, store.crop) != (settings.resize, settings.crop):
            raise ValueError(
                f"the store holds images of {store.resize} and {store.crop} pixels, the "
                f"augmentation wants {settings.resize} and {settings.crop}"
            )
        self._store = store
        self._samples = samples
        self._settings = settings
        self._seed = seed
        self._views = views
        self._side = settings.crop if images else 0
        self._names = [_words(record.name) for record in store.records]

    def train(self, plan: np.ndarray) -> Batch:
        """The batch of int[B, 2] epochs and rows."""
        epochs = plan[:, 0] % self._views if self._views else plan[:, 0]
        batch = self._empty(plan[:, 1])
        batch["view"] = epochs.astype(np.int32)
        if self._side == 0:
            return batch
        for image, epoch, row in zip(
            batch["image"], epochs.tolist(), plan[:, 1].tolist(), strict=True
        ):
            self._augment(row, epoch, image)
        return batch

    def evaluate(self, rows: np.ndarray, *, view: int | None = None) -> Batch:
        """The batch of int[B] rows, of which those beyond the last are padding."""
        mask = rows < len(self._samples)
        batch = self._empty(np.where(mask, rows, -1))
        batch["label"][~mask] = 0
        batch["mask"] = mask
        for image, row in zip(batch["image"], batch["index"].tolist(), strict=True):
            if row < 0:
                image[:] = 0
            elif view is None and self._samples.copy[row] == 0:
                image[:] = self._store.view(self._samples.image[row])
            else:
                self._augment(row, view or 0, image)
        return batch

    def _empty(self, rows: np.ndarray) -> Batch:
        return {
            "image": np.empty((len(rows), self._side, self._side, 3), np.uint8),
            "label": self._samples.label[rows].astype(np.int32),
            "index": rows.astype(np.int32),
        }

    def _augment(self, row: int, epoch: int, out: np.ndarray) -> None:
        image, copy = int(self._samples.image[row]), int(self._samples.copy[row])
        key = (*self._names[image], copy, epoch)
        sequence = np.random.SeedSequence(self._seed, spawn_key=key)
        rng = np.random.Generator(np.random.PCG64(sequence))
        augment(self._store.base(image), rng, self._settings, out)


def _words(name: str) -> tuple[int, int]:
    """64 bits that stand for a name, as two words of 32."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
