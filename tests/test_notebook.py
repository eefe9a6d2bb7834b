"""The quick start runs as it is, and holds what it gave."""

import base64
import importlib.util
import re
from pathlib import Path

import pytest

if not all(map(importlib.util.find_spec, ("nbclient", "ipykernel"))):
    pytest.skip("needs nbclient and ipykernel (the extra `test`)", allow_module_level=True)

from scripts import run_notebook

ROOT = Path(__file__).parents[1]
PATH = ROOT / "docs" / "quickstart.ipynb"
COMMITTED = run_notebook.nbformat.read(PATH, as_version=4)
CODE = [cell.id for cell in COMMITTED.cells if cell.cell_type == "code"]


def text_of(notebook, name):
    """What a cell printed."""
    [cell] = [cell for cell in notebook.cells if cell.id == name]
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures_of(notebook, name):
    """The PNG files that a cell showed."""
    [cell] = [cell for cell in notebook.cells if cell.id == name]
    found = [output.data for output in cell.outputs if output.output_type == "display_data"]
    return [base64.b64decode(data["image/png"]) for data in found]


def percents(pattern, text):
    """The numbers of the one line that fits."""
    [match] = re.finditer(pattern, text, re.MULTILINE)
    return [float(number) for number in match.groups()]


def check(notebook, *, learnt):
    """Every cell gave what the words around it speak of; and that something was learnt."""
    assert "malignant 27" in text_of(notebook, "images")  # 24 and three cropped ones
    assert re.findall(r"\((\d)\).png, malignant/cropped \((\d)\)", text_of(notebook, "copies")) == [
        ("1", "1"),
        ("2", "2"),
        ("3", "3"),
    ]
    assert "report.html" in text_of(notebook, "train")
    results = text_of(notebook, "results")
    assert "near-copies in training: 0" in results
    for name, chance in (("recall", 100 / 3), ("auc", 50)):
        value, low, high = percents(
            rf"^{name} +(\d+) %  \(95 % interval (\d+) to (\d+)\)$", results
        )
        assert low <= value <= high
        assert value > chance or not learnt
    answer = percents(
        r"\n  benign +(\d+) %\n  malignant +(\d+) %\n  normal +(\d+) %\n",
        text_of(notebook, "predict"),
    )
    assert abs(sum(answer) - 100) <= 1.5  # each is rounded
    explained = text_of(notebook, "explain")
    shares = [percents(rf"^{name} +(\d+) %", explained)[0] for name in ("resnet18", "vit")]
    assert abs(sum(shares) - 100) <= 1
    for name, count in (("look", 1), ("figures", 2), ("explain", 1)):
        shown = pictures_of(notebook, name)
        assert len(shown) == count
        assert all(png.startswith(b"\x89PNG") and len(png) > 5000 for png in shown)


def test_it_runs_in_a_folder_of_its_own(tmp_path, monkeypatch):
    """As it is, but with models of a few layers, which compile in a third of the time."""
    # Jupyter and IPython keep a history and the kernel's address in the user's folders otherwise.
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    startup = tmp_path / "jupyter" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    words = [
        f"import sys; sys.path.insert(0, {str(ROOT)!r})",
        "from tests import light; light.lighten()",
    ]
    (startup / "light.py").write_text("\n".join(words))
    folder = tmp_path / "docs"
    folder.mkdir()
    before = PATH.read_bytes()
    check(run_notebook.run(PATH, folder), learnt=False)
    assert [path.name for path in folder.iterdir()] == ["quickstart"]
    assert PATH.read_bytes() == before


def test_the_committed_file_holds_what_it_gave():
    check(COMMITTED, learnt=True)
    assert PATH.stat().st_size < 600_000
    outputs = [output for cell in COMMITTED.cells for output in cell.get("outputs", [])]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    words = [output.get("text", "") or output.data["text/plain"] for output in outputs]
    for text in words:
        assert not re.search(r"(^|[\s'\"=(])(/|~/|[A-Z]:\\)\w", text), text
        assert not re.search(r"Traceback|[Ww]arning|\d\d:\d\d", text), text
    assert COMMITTED.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    counts = [cell.execution_count for cell in COMMITTED.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert all(not cell.metadata for cell in COMMITTED.cells)


def test_words_stand_before_each_of_at_most_ten_code_cells():
    assert len(CODE) <= 10
    kinds = [cell.cell_type for cell in COMMITTED.cells]
    assert all(kinds[place - 1] == "markdown" for place, kind in enumerate(kinds) if kind == "code")
    ids = [cell.id for cell in COMMITTED.cells]
    assert all(re.fullmatch(r"[a-z-]+", name) for name in ids)


def test_the_files_and_settings_that_it_names_exist():
    words = "\n".join(cell.source for cell in COMMITTED.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!http)([\w./-]+)", words)
    assert len(links) >= 4
    for name in [*links, *re.findall(r"`(configs/\w+\.py)`", words)]:
        assert (PATH.parent / name).exists() or (ROOT / name).exists(), name
