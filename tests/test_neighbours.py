import numpy as np
import pytest

from jaxbusi.data import neighbours


@pytest.fixture
def vectors():
    """3,000 owners with three entries each in 24 dimensions; the last 300 resemble the first."""
    rng = np.random.default_rng(0)
    entries = rng.normal(size=(3000, 3, 24))
    entries[-300:, 1] = entries[:300, 0] + rng.normal(0, 0.25, (300, 24))
    entries /= np.linalg.norm(entries, axis=2, keepdims=True)
    return entries.astype(np.float16)


def search(vectors, **options):
    count = np.arange(len(vectors))
    return neighbours.nearest(
        vectors.reshape(-1, vectors.shape[-1]),
        count.repeat(3),
        vectors[:, 0],
        count,
        **({"most": 4, "least": 0.3} | options),
    )


def test_one_list_finds_what_all_pairs_find(vectors):
    found = search(vectors)
    exact = vectors.astype(np.float32)
    scores = (exact[:, 0] @ exact.reshape(9000, 24).T).reshape(3000, 3000, 3)
    best, view = scores.max(axis=2), scores.argmax(axis=2)
    np.fill_diagonal(best, -1)
    for query in range(0, 3000, 251):
        mine = found.query == query
        expected = np.argsort(-best[query])[:4]
        np.testing.assert_array_equal(found.entry[mine], 3 * expected + view[query, expected])
        np.testing.assert_allclose(found.score[mine], best[query, expected], atol=1e-3)


def test_many_lists_find_nearly_all_that_is_close(vectors, monkeypatch):
    monkeypatch.setattr(neighbours, "_EXACT", 100)
    found = search(vectors)
    pairs = set(zip(found.query.tolist(), (found.entry // 3).tolist(), strict=True))
    assert np.mean([(n, 2700 + n) in pairs for n in range(300)]) > 0.95
    again = search(vectors)
    np.testing.assert_array_equal(again.entry, found.entry)


def test_own_entries_weak_ones_and_surplus_ones_are_left_out(vectors):
    found = search(vectors, most=2, least=0.6)
    assert (found.query != found.entry // 3).all()
    assert found.score.min() >= 0.6
    assert np.bincount(found.query).max() <= 2
    assert len(search(vectors, least=1.1).query) == 0
