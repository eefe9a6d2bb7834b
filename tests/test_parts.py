"""The parts of a run under each protocol: what is trained on, what is tested, what leaks."""

import csv
import logging
import re
import shutil

import cv2
import numpy as np
import pytest

from jaxbusi.data import parts as parts_module
from jaxbusi.data.parts import load_parts
from jaxbusi.data.phantoms import write_phantoms
from jaxbusi.errors import UserError
from jaxbusi.settings import Settings
from tests import planted
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


def test_near_copies_are_looked_for_once_and_again_where_an_image_changed(
    with_copies, tmp_path, monkeypatch
):
    looked = []
    find = parts_module.find_groups
    monkeypatch.setattr(
        parts_module,
        "find_groups",
        lambda records, **options: [looked.append(len(records)), find(records, **options)][1],
    )
    parts_module._near_copies.cache_clear()
    root = tmp_path / "set"
    shutil.copytree(with_copies, root)
    load(root, tmp_path / "first", **{"data.protocol": "clean"})
    load(root, tmp_path / "second", seed=1, **{"data.protocol": "clean"})
    assert len(looked) == 1
    cv2.imwrite(str(root / "benign/benign (92).png"), np.full((64, 64, 3), 9, np.uint8))
    third = load(root, tmp_path / "third", **{"data.protocol": "clean"})
    assert len(looked) == 2
    assert not next(row for row in third.rows if row.image == "benign/benign (92).png").group


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


def write_table(path, lines, header="image,label,patient"):
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def tabulate(folder, patient=lambda name: ""):
    """Lines of a table of a folder of class sub-folders."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*).png"))
    return [f"{name},{name.partition('/')[0]},{patient(name)}" for name in names]


def groups_of(workdir):
    with (workdir / "split.csv").open() as file:
        return {row["image"]: row["group"] for row in csv.DictReader(file)}


def test_a_table_keeps_patients_and_near_copies_together(with_copies, tmp_path):
    """benign (1), (91) and (92) are copies; (2) is of the patient of (91), and (3) of none."""
    patient = {"benign/benign (91).png": "p1", "benign/benign (2).png": "p1"}
    for path in with_copies.rglob("*.png"):
        target = tmp_path / "set" / path.relative_to(with_copies)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    table = write_table(
        tmp_path / "set" / "labels.csv", tabulate(with_copies, lambda name: patient.get(name, ""))
    )
    unit = COPIES | set(patient)
    for seed in range(6):
        workdir = tmp_path / str(seed)
        parts = load(table, workdir, seed=seed, **{"data.protocol": "clean"})
        place = [name for name in ("train", "test") if unit & images(parts[name])]
        assert len(place) == 1
        assert unit <= images(parts[place[0]])
        groups = groups_of(workdir)
        assert len({groups[name] for name in unit}) == 1
        assert groups["benign/benign (3).png"] == ""
        assert "p1" not in groups.values()  # a patient's identifier is not passed on


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """A set, and a table of a second one: two altered copies of the first's images among nine."""
    base = tmp_path_factory.mktemp("hospitals")
    first, second = base / "first", base / "second"
    write_phantoms(first, count=30, seed=0, size=160)
    write_phantoms(second, count=9, seed=5, size=160)
    rng = np.random.default_rng(0)
    for number, way in ((1, "mirror"), (2, "crop")):
        image = cv2.imread(str(first / "benign" / f"benign ({number}).png"))
        (second / "benign" / f"copy ({number}).png").write_bytes(planted.WAYS[way](rng, image))
    # The copy of benign (1) and another image are of one patient.
    patient = {"benign/copy (1).png": "7", "malignant/malignant (1).png": "7"}
    lines = tabulate(second, lambda name: patient.get(name, ""))
    write_table(second / "labels.csv", [line for line in lines if not line.startswith("normal")])
    return first, second / "labels.csv"


def groups_file(first, path):
    names = sorted(path.relative_to(first).as_posix() for path in first.glob("*/*).png"))
    path.write_text("image,group\n" + "".join(f"{name},\n" for name in names))
    return str(path)


@pytest.mark.parametrize("given", ["nothing", "groups", "split"])
def test_copies_across_two_sets_are_found_before_training(hospitals, tmp_path, caplog, given):
    first, second = hospitals
    changes = {"data.external": str(second)}
    if given == "groups":
        changes["data.groups"] = groups_file(first, tmp_path / "groups.csv")
    if given == "split":
        load(first, tmp_path / "before", **changes)
        lines = (tmp_path / "before" / "split.csv").read_text().splitlines()
        cells = [line.split(",") for line in lines]
        bare = [",".join([*c[:3], "" if c[3] != "group" else c[3], *c[4:]]) for c in cells]
        (tmp_path / "split.csv").write_text("\n".join(bare) + "\n")
        changes["data.split"] = str(tmp_path / "split.csv")
    with caplog.at_level(logging.INFO):
        parts = load(first, tmp_path / "run", **changes)
    groups, train = groups_of(tmp_path / "run"), images(parts["train"])
    told = 0
    for number in (1, 2):
        own = f"benign/benign ({number}).png"
        assert groups[own]
        assert groups[own] == groups[f"external/benign/copy ({number}).png"]
        told += (own in train) * (1 + (number == 1))  # with (1) comes the other image of patient 7
    assert groups["external/malignant/malignant (1).png"] == groups["benign/benign (1).png"]
    total = len(images(parts["external"]))
    assert told > 0
    assert f"{told} of {total} external images (" in caplog.text
    assert "have a near-copy, or an image of their group or patient, in the training" in caplog.text
    assert "no news of another hospital: external/benign/copy (" in caplog.text


@pytest.mark.parametrize("given", ["nothing", "groups"])
def test_clean_refuses_copies_of_another_hospital_whatever_is_given(hospitals, tmp_path, given):
    first, second = hospitals
    changes = {"data.external": str(second), "data.protocol": "clean"}
    if given == "groups":
        changes["data.groups"] = groups_file(first, tmp_path / "groups.csv")
    with pytest.raises(UserError, match=r"\d of \d external images have .* config.data.external"):
        load(first, tmp_path / "run", **changes)
    # What was refused may be mended in the same workdir.
    lines = second.read_text().splitlines()
    clean = second.with_name("clean.csv")
    clean.write_text("\n".join(line for line in lines if "copy" not in line) + "\n")
    parts = load(first, tmp_path / "run", **{**changes, "data.external": str(clean)})
    assert "external/malignant/malignant (1).png" in images(parts["external"])


def test_groups_that_are_listed_take_the_place_of_near_copies_within_a_set(
    with_copies, tmp_path, monkeypatch
):
    listed = groups_file(with_copies, tmp_path / "groups.csv")
    monkeypatch.setattr(parts_module, "find_groups", None)  # nothing is looked for
    load(with_copies, tmp_path / "run", **{"data.groups": listed})
    assert not any(groups_of(tmp_path / "run").values())


def test_patients_of_two_hospitals_are_not_taken_for_one(phantoms, tmp_path):
    other = tmp_path / "other"
    write_phantoms(other, count=6, seed=7, size=64)
    tables = []
    for source in (phantoms, other):
        folder = tmp_path / source.name / "set"
        for path in source.rglob("*).png"):
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        lines = tabulate(folder, lambda name: "1" if "(1)" in name else "")
        tables.append(write_table(folder / "labels.csv", lines))
    load(tables[0], tmp_path / "run", **{"data.external": str(tables[1])})
    groups = groups_of(tmp_path / "run")
    names = [f"{name}/{name} (1).png" for name in ("benign", "malignant", "normal")]
    own, external = ({groups[before + name] for name in names} for before in ("", "external/"))
    assert len(own) == len(external) == 1
    assert own != external
    assert "" not in own | external


def test_a_set_to_train_on_must_not_look_like_an_external_one(phantoms, tmp_path):
    for path in phantoms.rglob("*).png"):
        target = tmp_path / "external" / path.relative_to(phantoms)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    lines = [f"external/{line}" for line in tabulate(phantoms)]
    lines = [f"{line.split(',')[0]},{line.split('/')[1]}," for line in lines]
    table = write_table(tmp_path / "labels.csv", lines)
    with pytest.raises(UserError, match=r"'external/benign/benign \(1\).png' begins like the"):
        load(table, tmp_path / "run")
