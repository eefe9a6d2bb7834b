import matplotlib
import numpy as np
import pytest
from matplotlib import _pylab_helpers
from PIL import Image

from jaxbusi.evaluation import figures, results
from jaxbusi.evaluation.predictions import Predictions

GREY = 137  # of every test image: nothing else in a figure has this colour


@pytest.fixture
def drawn(monkeypatch):
    """The figures written during a test, so that a test can read what they say."""
    seen = []
    write = figures.write

    def record(figure, path):
        seen.append(figure)
        write(figure, path)

    monkeypatch.setattr(figures, "write", record)
    return seen


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def pixels(path):
    image = Image.open(path)
    image.load()
    return np.asarray(image.convert("RGB"))


def grey_share(path):
    return float((pixels(path) == GREY).all(axis=2).mean())


def make(names, label, predicted, copies=1):
    label, predicted = np.repeat(label, copies), np.repeat(predicted, copies)
    rows = np.full((label.size, 3), 0.05) + 0.85 * np.eye(3)[predicted]
    return Predictions(
        [name for name in names for _ in range(copies)],
        np.tile(np.arange(copies), len(names)),
        label,
        rows,
    )


def load(name):
    return np.full((40, 60, 3), GREY, np.uint8)


def line(step, part, loss, accuracy):
    return {"step": step, "epoch": step / 10, "part": part, "loss": loss, "accuracy": accuracy}


def test_curves_show_each_part_and_the_latest_of_a_step(tmp_path, drawn):
    history = [
        line(20, "train", 0.5, 0.8),  # out of order, as after a resumed run
        line(10, "train", 9.0, 0.1),
        line(10, "train", 1.0, 0.5),
        line(10, "test", 1.2, 0.4),
        line(20, "test", None, None),  # a loss that was not finite is null in the file
    ]
    figures.plot_curves(history, tmp_path / "curves.png")
    loss, accuracy = drawn[0].axes
    train, test = loss.get_lines()
    np.testing.assert_allclose(train.get_xydata(), [[1, 1], [2, 0.5]])
    np.testing.assert_allclose(test.get_xydata(), [[1, 1.2], [2, np.nan]])
    np.testing.assert_allclose(accuracy.get_lines()[0].get_ydata(), [0.5, 0.8])
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "test"]
    assert pixels(tmp_path / "curves.png").shape[1] == figures.WIDTH * 200


@pytest.mark.parametrize("history", [[], [line(0, "test", 1.0, 0.5)], [line(5, "test", None, 0.1)]])
def test_curves_of_next_to_nothing(tmp_path, history):
    figures.plot_curves(history, tmp_path / "curves.png")
    assert pixels(tmp_path / "curves.png").std() > 1


def test_confusion_says_counts_and_shares_of_rows(tmp_path, drawn):
    figures.plot_confusion([[3, 1, 0], [0, 0, 0], [2, 0, 2]], tmp_path / "c.png", "Test $a$ part")
    said = texts(drawn[0])
    for cell in ("3\n75 %", "1\n25 %", "0\n0 %", "0\n–", "2\n50 %", "malignant\n(0)"):
        assert cell in said
    assert "Test $a$ part" in said
    (image,) = drawn[0].axes[0].get_images()
    np.testing.assert_allclose(image.get_array()[0], [0.75, 0.25, 0])


@pytest.mark.parametrize(
    "title",
    [
        "Fusion, 2 runs together, test part: 1560 augmented copies",
        f"{'arm_of_a_study_' * 5}, 10 runs together, external part: 15600 augmented copies",
        "乳腺, test part: 312 images",  # the font has no such letters: drawing them would warn
    ],
)
def test_a_long_title_stays_in_the_picture(tmp_path, drawn, title):
    figures.plot_confusion(np.eye(3, dtype=int).tolist(), tmp_path / "c.png", title)
    (axes,) = drawn[0].axes
    box = axes.title.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= drawn[0].bbox.width
    assert box.y1 <= drawn[0].bbox.height
    assert axes.get_title().replace("\n", " ").endswith(title[-20:])


def test_roc_quotes_the_summary_and_a_missing_class(tmp_path, drawn):
    rows = make("abcd", [0, 0, 1, 1], [0, 1, 1, 1])
    summary = results.summarize(rows, resamples=50)["images"]
    figures.plot_roc(rows, summary, tmp_path / "roc.png", "Test part")
    legend = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    auc = summary["per_class"]["malignant"]["auc"]
    assert legend[1] == f"malignant: AUC 0.750 ({auc['low']:.3f}–{auc['high']:.3f})"
    assert legend[2] == "normal: not defined here"
    curve = drawn[0].axes[0].get_lines()[2].get_xydata()
    np.testing.assert_allclose(curve, [[0, 0], [0.5, 1], [1, 1]])


def test_mistakes_show_the_images_and_what_was_said(tmp_path, drawn):
    rows = make(["right.png", "wrong.png"], [1, 1], [1, 0], copies=2)
    asked = []

    def remember(name):
        asked.append(name)
        return load(name)

    figures.plot_mistakes(rows, remember, tmp_path / "m.png")
    assert asked == ["wrong.png"]
    said = texts(drawn[0])
    assert "The only mistake on 2 images" in said
    assert "called benign, 90 %\ntruth: malignant" in said
    assert "wrong.png" in said
    assert grey_share(tmp_path / "m.png") > 0.1


def test_names_below_images_of_any_shape_are_not_written_over(tmp_path, drawn):
    # Height and width in pixels of twelve images of BUSI; the eighth fills its row.
    upper = [(467, 560), (589, 756), (467, 562), (467, 558), (467, 564), (463, 564)]
    lower = [(478, 557), (478, 433), (465, 557), (571, 781), (488, 555), (601, 765)]
    names = [f"malignant/malignant (1{number:02d}).png" for number in range(12)]
    shapes = dict(zip(names, upper + lower, strict=True))
    rows = make(names, [0] * 12, [1] * 12)
    figures.plot_mistakes(
        rows, lambda name: np.full((*shapes[name], 3), GREY, np.uint8), tmp_path / "m.png"
    )
    below = [axes.texts[0].get_window_extent() for axes in drawn[0].axes]
    above = [axes.title.get_window_extent() for axes in drawn[0].axes]
    for name, title in zip(below[:9], above[3:], strict=True):
        assert name.y0 > title.y1
    assert all(name.y0 > 0 for name in below)


def test_mistakes_stop_at_the_count_and_count_all(tmp_path, drawn):
    names = [f"{index}.png" for index in range(5)]
    rows = make(names, [0] * 5, [1] * 5)
    figures.plot_mistakes(rows, load, tmp_path / "m.png", count=4)
    assert "The 4 most confident of 5 mistakes on 5 images" in texts(drawn[0])
    assert sum(bool(axes.get_images()) for axes in drawn[0].axes) == 4
    figures.plot_mistakes(rows, load, tmp_path / "m.png", count=12)
    assert "All 5 mistakes on 5 images, the most confident first" in texts(drawn[1])


def test_no_mistakes_is_said_in_words(tmp_path, drawn):
    figures.plot_mistakes(make("abc", [0, 1, 2], [0, 1, 2]), pytest.fail, tmp_path / "m.png")
    assert texts(drawn[0]) == ["No mistakes: all 3 images got their class."]


def test_any_file_name_can_be_drawn(tmp_path, drawn):
    names = [
        "乳腺.png",  # not in the font: matplotlib would warn, and a warning fails the test
        "$x_{$.png",  # broken mathtext would raise
        b"\xe9.png".decode("utf-8", "surrogateescape"),
        "tab\tline\n.png",
        "<script>.png",
        "a/very/long/folder/name/benign (433).png",
    ]
    figures.plot_mistakes(make(names, [0] * 6, [1] * 6), load, tmp_path / "m.png")
    said = texts(drawn[0])
    assert "\\u4e73\\u817a.png" in said
    assert "$x_{$.png" in said
    assert "\\udce9.png" in said
    assert "tab\\u0009line\\u000a.png" in said
    assert "<script>.png" in said
    assert any(text.startswith("…") and text.endswith("/benign (433).png") for text in said)


@pytest.mark.parametrize(("count", "title"), [(3, "All 3 images"), (40, "24 of the 40 images")])
def test_batch_shows_images_with_their_class(tmp_path, drawn, count, title):
    images = np.full((count, 16, 16, 3), GREY, np.uint8)
    figures.plot_batch(images, np.full(count, 2), tmp_path / "b.png")
    said = texts(drawn[0])
    assert f"{title} of a training batch" in said
    assert said.count("normal") == min(count, 24)
    assert grey_share(tmp_path / "b.png") > 0.1


def test_all_figures_of_a_run(tmp_path):
    parts = {
        "test": make(["a", "b", "c", "d"], [0, 1, 2, 1], [0, 1, 2, 2], copies=2),
        "external": make(["e", "f"], [0, 1], [0, 1]),
    }
    summary = results.assemble(
        parts,
        protocol="paper",
        checkpoint={},
        leakage={},
        baselines={},
        resamples=20,
    )
    batch = (np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1]))
    loaders = {
        "test": lambda name: load(name) if name == "d" else pytest.fail(name),
        "external": pytest.fail,
    }
    arguments = {"predictions": parts, "results": summary, "load_image": loaders}
    pictures = figures.write_all(
        tmp_path / "one", history=[line(1, "test", 1.0, 0.5)], batch=batch, **arguments
    )
    names = [
        "confusion_test_images.png",
        "confusion_test_copies.png",
        "roc_test.png",
        "reliability_test.png",
        "selective_test.png",
        "mistakes_test.png",
        "confusion_external_images.png",
        "roc_external.png",
        "reliability_external.png",
        "selective_external.png",
        "mistakes_external.png",
        "curves.png",
        "batch.png",
    ]
    assert [picture.path.name for picture in pictures] == names
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(names)
    assert "of 2 malignant: 0 called benign, 1 called malignant, 1 called" in pictures[0].alt
    assert "test 50.0 %" in pictures[11].alt

    again = figures.write_all(tmp_path / "two", history=[], **arguments)
    assert [picture.path.name for picture in again] == names[:-2]
    for first, second in zip(pictures, again, strict=False):
        assert first.path.read_bytes() == second.path.read_bytes()  # the same input, the same file


def test_nothing_global_is_touched(tmp_path, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "axes.titlecolor", "red")
    before = dict(matplotlib.rcParams)
    figures.plot_confusion(np.eye(3, dtype=int), tmp_path / "one.png", "Test")
    assert dict(matplotlib.rcParams) == before
    monkeypatch.setitem(matplotlib.rcParams, "axes.titlecolor", "green")
    figures.plot_confusion(np.eye(3, dtype=int), tmp_path / "two.png", "Test")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert not _pylab_helpers.Gcf.figs  # where pyplot would keep them
