import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from jaxbusi.evaluation import confidence_figures, results
from jaxbusi.evaluation.predictions import Predictions
from tests.test_figures import pixels, texts


@pytest.fixture
def drawn(monkeypatch):
    """The figures written during a test, so that a test can read what they say."""
    seen = []
    write = confidence_figures.write

    def record(figure, path):
        seen.append(figure)
        write(figure, path)

    monkeypatch.setattr(confidence_figures, "write", record)
    return seen


@pytest.fixture
def rows():
    """Ten images, four of them at 0.9 and six at 0.6; three and three of them are right."""
    top = np.array([0.9] * 4 + [0.6] * 6)
    label = [0, 0, 0, 1, 0, 0, 0, 2, 2, 2]
    names = [f"{row}.png" for row in range(10)]
    shares = np.stack([top, (1 - top) * 0.75, (1 - top) * 0.25], axis=1)
    return Predictions(names, np.zeros(10), np.array(label), shares)


def test_reliability_shows_both_lines_with_exact_intervals(tmp_path, drawn, rows):
    judged = results.judge_probabilities(rows, 1.7, resamples=50)
    confidence_figures.plot_reliability(judged["calibration"], tmp_path / "r.png", "Test $a$")
    upper, lower = drawn[0].axes
    before, after = (box for box in upper.containers if isinstance(box, ErrorbarContainer))
    np.testing.assert_allclose(before[0].get_xydata(), [[0.6, 0.5], [0.9, 0.75]])
    assert (after[0].get_xdata() < before[0].get_xdata()).all()  # less sure
    assert not after[2]  # two sets of bars could not be told apart
    # Clopper-Pearson for 3 of 4: 0.1941 to 0.9937.
    ends = before[2][0].get_segments()[1]
    np.testing.assert_allclose(ends[:, 1], [0.1941, 0.9937], atol=5e-5)
    assert [bar.get_height() for bar in lower.containers[0]] == [6, 4]
    # |0.5 - 0.6| of six and |0.75 - 0.9| of four.
    assert "as the model gives them: ECE 12.0 %" in texts(drawn[0])
    assert "Test $a$" in texts(drawn[0])
    assert pixels(tmp_path / "r.png").std() > 1
    alone = results.judge_probabilities(rows, resamples=50)
    confidence_figures.plot_reliability(alone["calibration"], tmp_path / "r.png", "Test")
    assert len(drawn[1].legends[0].get_texts()) == 1


def test_selective_shows_the_curve_and_the_points(tmp_path, drawn, rows):
    points = results.judge_probabilities(rows, resamples=50)["selective"]
    confidence_figures.plot_selective(rows, points, tmp_path / "s.png", "Test")
    curve, dots = drawn[0].axes[0].get_lines()[:2]
    np.testing.assert_allclose(curve.get_xydata(), [[0.4, 0.75], [1, 0.6]])
    assert set(map(tuple, dots.get_xydata())) == {(1.0, 0.6)}
    low, high = drawn[0].axes[0].get_ylim()
    assert low < points[0]["accuracy"]["low"] < points[0]["accuracy"]["high"] < high


def test_the_words_for_those_who_cannot_see_them(tmp_path, rows):
    judged = results.judge_probabilities(rows, resamples=50)
    reliability, selective = confidence_figures.write_part(tmp_path, "test", rows, judged)
    assert "6 given 60.0 % on average, 50.0 % right; 4 given 90.0 %" in reliability.alt
    assert "100.0 % answered, 60.0 % right" in selective.alt
    assert (tmp_path / "reliability_test.png").exists()
    first = (tmp_path / "selective_test.png").read_bytes()
    confidence_figures.write_part(tmp_path, "test", rows, judged)
    assert (tmp_path / "selective_test.png").read_bytes() == first
