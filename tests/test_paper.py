"""What the paper's printed numbers imply, by hand and by another route."""

import pytest
from scipy import stats

from jaxbusi.evaluation import paper


def test_the_images_are_780_and_the_share_is_of_the_wrong_number():
    found = paper.implied()
    assert found.summed == 487 + 210 + 133 == 830
    assert found.public_total == 437 + 210 + 133 == paper.TOTAL
    assert round(found.benign_in_total, 1) == paper.BENIGN_SHARE
    assert found.public_share == pytest.approx(56.03, abs=0.01)


def test_one_split_of_156_images_cannot_tell_90_from_95_percent():
    found = paper.implied()
    assert found.test_images == 156
    # 727 of 780 is the printed share; 145 and 146 of 156 are 92.9 and 93.6 %.
    exact = stats.binomtest(727, 780).proportion_ci(method="exact")
    assert found.of_copies == pytest.approx((100 * exact.low, 100 * exact.high), abs=0.01)
    below, above = (stats.binomtest(hits, 156).proportion_ci(method="exact") for hits in (145, 146))
    assert 100 * below.low < found.of_images[0] < 100 * above.low
    assert 100 * below.high < found.of_images[1] < 100 * above.high
    assert found.held == (90, 95)
    assert not found.whole


def test_the_validation_set_is_far_below_the_test_set():
    found = paper.implied()
    assert found.validation_copies == 31 * 5 == sum(count for _, count in paper.VALIDATION_COUNTS)
    assert found.read_right == 60 + 33 + 26
    assert round(found.read_share, 1) == 76.8
    assert [round(share, 1) for share in found.read] == [80.0, 73.3, 74.3]
    assert found.least <= found.read_share <= found.most
    assert found.gap == pytest.approx(93.2 - 80.6)
    assert found.divisions == 0


@pytest.mark.parametrize(
    ("share", "count", "possible"),
    [
        (73.3, 45, True),  # 33
        (74.2, 35, True),  # 26 is 74.286, cut off
        (74.3, 35, True),  # the same, rounded
        (80.6, 75, False),  # 60 is 80.0, 61 is 81.3
        (80.6, 155, True),  # 125
        (100.0, 7, True),
        (0.0, 7, True),
    ],
)
def test_which_shares_whole_counts_can_give(share, count, possible):
    assert paper.can_be(share, count) is possible


def test_divisions_are_found_where_there_are_some():
    # Of six copies two, of four one, of ten nine: three, two and five images, twice each.
    found = list(paper.divisions((33.3, 25.0, 90.0), images=10, copies=2))
    assert found == [(3, 2, 5)]
