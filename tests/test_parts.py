"""The parts of a run under each protocol: what is trained on, what is tested, what leaks."""

import csv
import logging
import re

import numpy as np
import pytest

from jaxbusi.data.parts import load_parts
from jaxbusi.data.phantoms import write_phantoms
from jaxbusi.errors import UserError
from jaxbusi.settings import Settings
from tests.runs import make_config


@pytest.fixture(scope="module")
def with_copies(tmp_path_factory):
    """30 phantoms, of which benign (1) is there three times, and malignant (1) as a normal too."""
    folder = tmp_path_factory.mktemp("copies") / "set"
    write_phantoms(folder, count=30, seed=0, size=128)
    for source, target in (
        ("benign/benign (1)", "benign/benign (91)"),
        ("benign/benign (1)", "benign/benign (92)"),
        ("malignant/malignant (1)", "normal/normal (91)"),
    ):
        data = (folder / f"{source}.png").read_bytes()
        (folder / f"{target}.png").write_bytes(data)
    return folder


def load(root, workdir, seed=0, **changes):
    settings = Settings.from_config(make_config(root, **changes))
    workdir.mkdir(exist_ok=True)
    return load_parts(settings.data, seed=seed, workdir=workdir)


def images(part):
    return {part.store.records[row].name for row in part.samples.image}


COPIES = {"benign/benign (1).png", "benign/benign (91).png", "benign/benign (92).png"}
CONFLICT = {"malignant/malignant (1).png", "normal/normal (91).png"}


def test_clean_keeps_copies_together_and_leaves_conflicts_out(with_copies, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        parts = load(with_copies, tmp_path, **{"data.protocol": "clean", "data.copies": 5})
    train, test = images(parts["train"]), images(parts["test"])
    assert train >= COPIES or test >= COPIES
    assert not CONFLICT & (train | test)
    assert "2 images are left out, as their groups carry two labels: malignant/mal" in caplog.text
    assert "0 of " in caplog.text
    assert np.all(parts["test"].samples.copy == 0)
    assert set(parts["train"].samples.copy) == {0, 1, 2, 3, 4}
    with (tmp_path / "split.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert {rows[name]["part"] for name in CONFLICT} == {"excluded"}
    assert len({rows[name]["group"] for name in COPIES}) == 1
    # A run that goes on reads the file.
    again = load(with_copies, tmp_path, **{"data.protocol": "clean", "data.copies": 5})
    assert again.rows == parts.rows


def test_paper_says_how_many_test_images_have_a_copy_in_training(with_copies, tmp_path, caplog):
    told = set()
    for seed in range(6):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            parts = load(with_copies, tmp_path / str(seed), seed=seed)
        train, test = images(parts["train"]), images(parts["test"])
        leaked = sum(
            bool(group & train) for group in (COPIES, CONFLICT) for name in group if name in test
        )
        assert f"{leaked} of {len(test)} test images" in caplog.text
        told.add(leaked)
    assert len(told) > 1


def test_clean_refuses_a_split_that_leaks(with_copies, tmp_path):
    for seed in range(6):
        parts = load(with_copies, tmp_path / str(seed), seed=seed)
        if COPIES & images(parts["train"]) and COPIES & images(parts["test"]):
            break
    split = tmp_path / str(seed) / "split.csv"
    with pytest.raises(
        UserError, match=r"protocol='clean': \d of \d+ test images .*config.data.sp"
    ):
        load(with_copies, tmp_path / "x", **{"data.protocol": "clean", "data.split": str(split)})


def test_clean_refuses_external_images_that_were_trained_on(with_copies, tmp_path):
    other = tmp_path / "other" / "benign"
    other.mkdir(parents=True)
    data = (with_copies / "benign" / "benign (1).png").read_bytes()
    (other / "same.png").write_bytes(data)
    changes = {"data.protocol": "clean", "data.external": str(other.parent)}
    for seed in range(6):
        workdir = tmp_path / str(seed)
        trained = images(
            load(with_copies, tmp_path / f"own{seed}", seed=seed, **{"data.protocol": "clean"})[
                "train"
            ]
        )
        if trained >= COPIES:
            with pytest.raises(UserError, match=r"1 of 1 external .*'external/benign/same.png'"):
                load(with_copies, workdir, seed=seed, **changes)
            return
    raise AssertionError("no seed trains on the copies")


def test_leaky_tests_copies_of_images_that_are_trained_on(phantoms, tmp_path):
    parts = load(phantoms, tmp_path, **{"data.protocol": "leaky", "data.copies": 5})
    train, test = parts["train"].samples, parts["test"].samples
    assert (len(train), len(test)) == (120, 30)
    both = images(parts["train"]) & images(parts["test"])
    assert len(both) > 10
    keys = [{(int(i), int(c)) for i, c in zip(s.image, s.copy, strict=True)} for s in (train, test)]
    assert not keys[0] & keys[1]
    assert len(keys[0] | keys[1]) == 150
    assert {c for i, c in keys[1]} >= {0}
    assert all((i, 0) in keys[1] for i, _ in keys[1])  # the image itself is among those tested


def test_a_csv_of_patients_takes_the_place_of_near_copies(phantoms, tmp_path):
    names = sorted(path.relative_to(phantoms).as_posix() for path in phantoms.glob("*/*).png"))
    path = tmp_path / "patients.csv"
    number = re.compile(r"\((\d+)\)")  # two images a patient, all of one class
    lines = [f"{name},{name[:3]}{int(number.search(name)[1]) // 2}" for name in names]
    path.write_text("\n".join(["image,patient", *lines]) + "\n")
    changes = {"data.protocol": "clean", "data.groups": str(path)}
    parts = load(phantoms, tmp_path / "run", **changes)
    of = dict(line.split(",") for line in lines)
    patients = [{of[name] for name in images(parts[part])} for part in ("train", "test")]
    assert not patients[0] & patients[1]
    for content, message in (
        ("image,patient\n" + "\n".join(lines[1:]), "does not list"),
        ("image,name\nx,y\n", "needs the columns image and group"),
        ("\n".join(["image,patient", *lines, lines[0]]), "line 32: .* is listed a second time"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            load(phantoms, tmp_path / "other", **changes)
    with pytest.raises(UserError, match=r"config.data.groups=/none.csv cannot be read as CSV"):
        load(phantoms, tmp_path / "other", **{**changes, "data.groups": "/none.csv"})
