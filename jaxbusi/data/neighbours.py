"""The most alike of many unit vectors, by an inverted file: only a few lists are compared."""

import dataclasses

import numpy as np
from tqdm import tqdm

_EXACT = 50_000  # Entries up to which one list is fast enough, and then nothing is missed.
_VISITED = 12  # Lists looked through for a query.
_ROUNDS = 4  # Of k-means; lists need not be good, only of similar length.
_SAMPLE = 16  # Entries a list that k-means looks at.
_CELLS = 4_000_000  # Most scores held at a time: 16 MB.
_KEPT = 48  # Best entries held for a query; several may be of one owner.
_NONE = -2.0  # Less than any correlation.


@dataclasses.dataclass(frozen=True)
class Matches:
    """Queries and the entries they are most like, aligned.

    Attributes:
      query: int[M], index of the query.
      entry: int[M], index of the entry.
      score: float32[M], their dot product.
    """

    query: np.ndarray
    entry: np.ndarray
    score: np.ndarray


def nearest(
    entries: np.ndarray,
    owners: np.ndarray,
    queries: np.ndarray,
    askers: np.ndarray,
    *,
    most: int,
    least: float,
    progress: bool = False,
) -> Matches:
    """Finds for every query the owners whose entries are most like it.

    Up to 50,000 entries all are compared. Beyond, entries are filed in about sqrt(N) lists by
    k-means, and a query is compared with those in the 12 lists nearest to it. Neither holds a
    matrix of all pairs. Fixed seeds: the same input gives the same matches.

    Args:
      entries: float16[N, D], unit vectors.
      owners: int[N], what each entry belongs to.
      queries: float16[Q, D], unit vectors.
      askers: int[Q], the owner that each query stands for; its own entries are passed over.
      most: owners reported for a query.
      least: dot product from which an entry counts.
      progress: draw a progress bar where the standard error stream is a terminal.

    Returns:
      For each query at most `most` owners, each with its best entry, ordered by query and score.
    """
    lists, visits = _file(entries, queries)
    scores = np.full((len(queries), _KEPT), _NONE, np.float32)
    rows = np.full((len(queries), _KEPT), -1, np.int64)
    bar = tqdm(lists, desc="looking up hashes", unit="list", disable=None if progress else True)
    for members, visitors in zip(bar, visits, strict=True):
        if not len(members):
            continue
        held = entries[members].astype(np.float32)
        step = max(1, _CELLS // len(members))
        for first in range(0, len(visitors), step):
            some = visitors[first : first + step]
            found = queries[some].astype(np.float32) @ held.T
            found[askers[some, None] == owners[None, members]] = _NONE
            _merge(scores, rows, some, found, members)
    return _best_of_owners(scores, rows, owners, most, least)


def _file(entries: np.ndarray, queries: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The entries in each list, and the queries that visit it."""
    if len(entries) <= _EXACT:
        return [np.arange(len(entries))], [np.arange(len(queries))]
    centers = _centers(entries, round(len(entries) ** 0.5))
    lists = _grouped(_closest(entries, centers, 1), len(centers))
    return lists, _grouped(_closest(queries, centers, _VISITED), len(centers))


def _centers(entries: np.ndarray, count: int) -> np.ndarray:
    """Spherical k-means on a sample, a few rounds: float32[count, D]."""
    rng = np.random.default_rng(0)
    size = min(len(entries), _SAMPLE * count)
    sample = entries[np.sort(rng.choice(len(entries), size, replace=False))].astype(np.float32)
    centers = sample[np.sort(rng.choice(size, count, replace=False))]
    for _ in range(_ROUNDS):
        nearest_center = _closest(sample, centers, 1)[:, 0]
        sums = np.zeros_like(centers)
        np.add.at(sums, nearest_center, sample)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centers = np.where(norms > 0, sums / np.maximum(norms, 1e-9), centers)
    return centers


def _closest(vectors: np.ndarray, centers: np.ndarray, count: int) -> np.ndarray:
    """The `count` most similar centers of each vector: int32[N, count], in no order."""
    closest = np.empty((len(vectors), count), np.int32)
    step = max(1, _CELLS // len(centers))
    for first in range(0, len(vectors), step):
        scores = vectors[first : first + step].astype(np.float32) @ centers.T
        if count == 1:
            closest[first : first + step, 0] = scores.argmax(axis=1)
        else:
            closest[first : first + step] = np.argpartition(scores, -count, axis=1)[:, -count:]
    return closest


def _grouped(chosen: np.ndarray, count: int) -> list[np.ndarray]:
    """For each of `count` lists, the rows of `chosen` that name it, in order."""
    flat = chosen.ravel()
    order = np.argsort(flat, kind="stable")
    ends = np.searchsorted(flat[order], np.arange(1, count))
    return np.split(order // chosen.shape[1], ends)


def _merge(
    scores: np.ndarray, rows: np.ndarray, some: np.ndarray, found: np.ndarray, members: np.ndarray
) -> None:
    """Keeps the best of what is held for the queries `some` and of what was found, in place."""
    names = np.broadcast_to(members, found.shape)
    if found.shape[1] > _KEPT:
        best = np.argpartition(found, -_KEPT, axis=1)[:, -_KEPT:]
        found, names = np.take_along_axis(found, best, 1), members[best]
    found = np.concatenate([scores[some], found], axis=1)
    names = np.concatenate([rows[some], names], axis=1)
    best = np.argpartition(found, -_KEPT, axis=1)[:, -_KEPT:]
    scores[some] = np.take_along_axis(found, best, 1)
    rows[some] = np.take_along_axis(names, best, 1)


def _best_of_owners(
    scores: np.ndarray, rows: np.ndarray, owners: np.ndarray, most: int, least: float
) -> Matches:
    queries, places = np.nonzero(scores >= least)
    score, entry = scores[queries, places], rows[queries, places]
    order = np.lexsort((entry, -score, owners[entry], queries))
    queries, score, entry = queries[order], score[order], entry[order]
    # Of each query and owner the best entry is now the first.
    owner = owners[entry]
    first = np.ones(len(queries), bool)
    first[1:] = (queries[1:] != queries[:-1]) | (owner[1:] != owner[:-1])
    queries, score, entry = queries[first], score[first], entry[first]
    order = np.lexsort((entry, -score, queries))
    queries, score, entry = queries[order], score[order], entry[order]
    starts = np.searchsorted(queries, queries)
    kept = np.arange(len(queries)) - starts < most
    return Matches(queries[kept], entry[kept], score[kept])
