import numpy as np
import pytest

from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.evaluation.predictions import Mistake, Predictions, confident_mistakes

HEADER = "image,copy,label,benign,malignant,normal\n"


def make(image, copy, label, probabilities):
    return Predictions(list(image), np.array(copy), np.array(label), np.array(probabilities))


def test_csv_keeps_every_bit_and_every_name(tmp_path):
    rng = np.random.default_rng(0)
    names = ["a.png", 'b, "c".png', "<script>alert(1)</script>.png", "乳腺 $x$.png", "two\nlines"]
    names.append(b"latin-\xe9.png".decode("utf-8", "surrogateescape"))
    probabilities = rng.dirichlet((0.2, 0.2, 0.2), 2 * len(names))
    probabilities[0] = [1 / 3, 1 - 1 / 3 - 1e-17, 1e-17]
    written = make(
        names * 2,
        [0] * len(names) + [1] * len(names),
        [0, 1, 2, 0, 1, 2] * 2,
        probabilities,
    )
    path = tmp_path / "new" / "predictions_test.csv"
    written.write_csv(path)
    read = Predictions.read_csv(path)

    assert read.image == written.image
    assert path.read_text(errors="replace").startswith(HEADER + "a.png,0,benign,0.3333333333333333")
    np.testing.assert_array_equal(read.copy, written.copy)
    np.testing.assert_array_equal(read.label, written.label)
    np.testing.assert_array_equal(
        read.probabilities.view(np.int64), written.probabilities.view(np.int64)
    )
    assert [entry.name for entry in path.parent.iterdir()] == ["predictions_test.csv"]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "columns must be image,copy"),
        ("image,label\na.png,benign\n", 1, "columns must be image,copy"),
        (HEADER, 2, "no predictions"),
        (HEADER + "a.png,0,benign,1,0,0\nb.png,0,benign,1,0\n", 3, "5 cells instead of 6"),
        (HEADER + "\na.png,0,benign,1,0,0\n", 2, "0 cells"),
        (HEADER + ",0,benign,1,0,0\n", 2, "no name"),
        (HEADER + "a.png,first,benign,1,0,0\n", 2, "copy 'first'"),
        (HEADER + "a.png,-1,benign,1,0,0\n", 2, "copy '-1'"),
        (HEADER + f"a.png,{'9' * 5000},benign,1,0,0\n", 2, "is not a whole number"),
        (HEADER + f"a.png,{2**70},benign,1,0,0\n", 2, "is not a whole number"),
        (HEADER + '"a\nb.png",0,benign,1,1,0\n', 3, r"a\nb.png (copy 0)"),
        (HEADER + 'a.png,0,benign,"1\n2",0,0\n', 3, r"1\n2, 0, 0 are not three numbers"),
        (HEADER + "a.png,0,cyst,1,0,0\n", 2, "label 'cyst'"),
        (HEADER + "a.png,0,benign,high,0,0\n", 2, "not three numbers"),
        (HEADER + "a.png,0,benign,nan,0,0\n", 2, "a.png (copy 0)"),
        (HEADER + "a.png,0,benign,2.5,0.1,0.2\n", 2, "sum to 1"),
        (HEADER + '"two\nlines.png",0,benign,1,0,0\n"b".png,0,benign,1,0,0\n', 4, "expected"),
        (HEADER + '"never closed,0,benign,1,0,0\n', 2, "unexpected end"),
    ],
)
def test_malformed_files_are_refused_by_file_and_line(tmp_path, text, line, says):
    path = tmp_path / "predictions_test.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        Predictions.read_csv(path)
    message = str(caught.value)
    assert f"{path}: line {line}: " in message
    assert says in message
    assert "\n" not in message


def test_a_missing_file_and_a_row_given_twice_are_refused(tmp_path):
    path = tmp_path / "predictions_test.csv"
    with pytest.raises(UserError, match=r"predictions_test\.csv: cannot be read"):
        Predictions.read_csv(path)
    path.write_text(HEADER + "a.png,0,benign,1,0,0\na.png,0,benign,1,0,0\n")
    with pytest.raises(UserError, match=r"_test\.csv: a\.png \(copy 0\): predicted twice"):
        Predictions.read_csv(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    rows = make(["a.png"], [0], [0], [[1, 0, 0]])
    path = tmp_path / "predictions_test.csv"
    rows.write_csv(path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"predictions_test\.csv: cannot be written \(No space"):
        make(["b.png"], [0], [0], [[1, 0, 0]]).write_csv(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5])
def test_broken_probabilities_name_their_image(bad):
    with pytest.raises(UserError, match=r"b\.png \(copy 3\): the probabilities"):
        make(["a.png", "b.png"], [0, 3], [0, 1], [[1, 0, 0], [bad, 0.5, 0.5]])


def test_rows_must_be_consistent():
    with pytest.raises(UserError, match="no predictions"):
        Predictions([], np.zeros(0), np.zeros(0), np.zeros((0, 3)))
    with pytest.raises(UserError, match=r"a\.png \(copy 1\): copies of one image carry two labels"):
        make(["a.png"] * 2, [0, 1], [0, 1], [[1, 0, 0]] * 2)
    with pytest.raises(ValueError, match="labels must be"):
        make(["a.png"], [0], [3], [[1, 0, 0]])
    with pytest.raises(ValueError, match="do not fit"):
        make(["a.png", "b.png"], [0], [0], [[1, 0, 0]])


def test_originals_sources_and_ties():
    rows = make(
        ["b", "a", "b", "a"],
        [0, 1, 1, 0],
        [2, 0, 2, 0],
        [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1], [0.2, 0.4, 0.4]],
    )
    np.testing.assert_array_equal(rows.source, [1, 0, 1, 0])
    np.testing.assert_array_equal(rows.predicted, [0, 1, 2, 1])
    originals = rows.originals()
    assert originals.image == ["b", "a"]
    np.testing.assert_array_equal(originals.probabilities, [[0.5, 0.5, 0], [0.2, 0.4, 0.4]])
    with pytest.raises(UserError, match=r"^b: has augmented copies but no row"):
        make(["a", "b"], [0, 1], [0, 0], [[1, 0, 0]] * 2).originals()


def test_the_mean_of_views_by_hand():
    rows = make(
        ["b", "a", "b", "a", "a"],
        [0, 1, 1, 0, 2],
        [2, 0, 2, 0, 0],
        [[0.5, 0.5, 0], [0.6, 0.3, 0.1], [0, 0.25, 0.75], [0.3, 0.6, 0.1], [0.6, 0.3, 0.1]],
    )
    means = rows.mean_of_views()
    assert means.image == ["b", "a"]
    np.testing.assert_array_equal(means.copy, [0, 0])
    np.testing.assert_array_equal(means.label, [2, 0])
    np.testing.assert_allclose(means.probabilities, [[0.25, 0.375, 0.375], [0.5, 0.4, 0.1]])


def test_mistakes_are_originals_only_the_most_confident_first():
    rows = make(
        ["right", "unsure", "sure", "also sure", "copy", "copy"],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 1, 2, 0, 0],
        [[1, 0, 0], [0.4, 0.6, 0], [0.9, 0.1, 0], [0.9, 0, 0.1], [1, 0, 0], [0, 1, 0]],
    )
    assert confident_mistakes(rows) == [
        Mistake("also sure", "normal", "benign", 0.9),
        Mistake("sure", "malignant", "benign", 0.9),
        Mistake("unsure", "benign", "malignant", 0.6),
    ]
    assert CLASSES == ("benign", "malignant", "normal")
