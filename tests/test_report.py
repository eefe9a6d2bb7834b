import base64
import dataclasses
import html.parser
import re

import numpy as np
import pytest

from jaxbusi.errors import UserError
from jaxbusi.evaluation import figures, results
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.evaluation.report import Run, write_report

BAD = "<script>alert('x')</script> & \"b\" <img src=http://evil.example/x.png>.png"


class Page(html.parser.HTMLParser):
    """Tags with their attributes, the visible text, and whether every tag is closed in order."""

    VOID = {"meta", "img", "br"}  # noqa: RUF012

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.parts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.parts).replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.parts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Ten test images in three copies, three of them wrong; two external ones, both right."""
    label = np.array([0] * 5 + [1] * 3 + [2] * 2)
    predicted = np.array([0, 0, 0, 0, 1, 1, 1, 0, 2, 1])
    rows = np.full((10, 3), 0.1) + 0.7 * np.eye(3)[predicted]
    test = Predictions(
        [name for name in [*"abcdefg", BAD, "i", "乳腺.png"] for _ in range(3)],
        np.tile(np.arange(3), 10),
        label.repeat(3),
        rows.repeat(3, axis=0),
    )
    external = Predictions(["x", "y"], [0, 0], [0, 1], [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    parts = {"test": test, "external": external}
    document = results.assemble(
        parts,
        protocol="paper",
        checkpoint={"step": 90, "chosen": "latest"},
        leakage={"test": (3, 10), "external": (0, 2)},
        baselines={},
        resamples=100,
    )
    load = dict.fromkeys(parts, lambda name: np.zeros((8, 8, 3), np.uint8))
    history = [
        {"step": 9, "epoch": 1.0, "part": part, "loss": 1.0, "accuracy": 0.5}
        for part in ("train", "test")
    ]
    pictures = figures.write_all(
        tmp_path_factory.mktemp("figures"),
        predictions=parts,
        results=document,
        history=history,
        load_image=load,
    )
    return Run(
        name="runs/fusion",
        model="ResNet18 + ViT-B/16",
        data="Dataset_BUSI_with_GT",
        synthetic=False,
        command=["python", "-m", "jaxbusi.main", "--workdir", "a b", "--config.seed=1"],
        config={"seed": 1, "data": {"root": "a<b>", "external": "", "scale": [0.08, 1.0]}},
        environment={"versions": {"jax": "0.10.2"}, "devices": ["cpu:0", "cpu:1"]},
        split={
            "train": {"benign": (350, 1750), "malignant": (168, 840), "normal": (106, 530)},
            "test": {"benign": (5, 15), "malignant": (3, 9), "normal": (2, 6)},
            "external": {"benign": (1, 1), "malignant": (1, 1)},
        },
        results=document,
        predictions=parts,
        pictures=pictures,
        skipped=[(BAD, "truncated <file>")],
    )


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, run)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


def test_the_page_is_self_contained(written, page, run):
    sources = [image["src"] for image in page.all("img")]
    data = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources]
    # Where there is no mistake, words stand for the picture that says so.
    shown = [p for p in run.pictures if p.path.name != "mistakes_external.png"]
    assert sorted(data) == sorted(picture.path.read_bytes() for picture in shown)
    assert not {"script", "link", "iframe", "object", "video"} & {tag for tag, _ in page.tags}
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert not re.search(r"url\(|@import", written)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert any("default-src 'none'" in str(meta.get("content")) for meta in page.all("meta"))


def test_near_copies_in_training_are_counted(page, run, tmp_path):
    assert "3 of 10 test images (30 %) have a near-copy in the training part." in page.text
    assert (
        "have a near-copy in the training part, so that scores are too high" in page.text
    )  # above
    assert "0 of 2 external images (0 %)" in page.text
    assert "--config.data.protocol=clean keeps them together" in page.text
    clean = {**run.results, "leakage": {"test": {"near_copy_in_training": 0, "images": 10}}}
    write_report(tmp_path / "r.html", dataclasses.replace(run, results=clean, pictures=[]))
    text = Page((tmp_path / "r.html").read_text()).text
    assert "No score here profits from them." in text
    assert "too high for new patients" not in text


def test_hostile_names_are_only_text(written, page):
    assert "<script" not in written
    assert "<img src=http" not in written
    assert page.text.count(BAD) == 2  # among the mistakes and among the skipped
    assert "truncated <file>" in page.text
    assert "a<b>" in page.text
    assert "乳腺.png" in page.text


def test_a_clinician_reads_what_was_measured(page, run):
    text = page.text
    assert "Research use only." in text
    assert "ResNet18 + ViT-B/16 was trained on 624 breast ultrasound images from" in text
    assert "Dataset_BUSI_with_GT (350 benign, 168 malignant, 106 normal)" in text
    assert "Of 10 images it gave 7 the right class (70 %). Answering benign every time" in text
    assert "Answering benign every time would be right for 50 %." in text
    assert (
        "Of 3 malignant images it recognised 2 and called 1 benign and 0 normal; "
        "of 4 that it called malignant, 2 were." in text
    )
    assert "No normal images are in this part" in text
    accuracy = run.results["parts"]["test"]["images"]["accuracy"]
    ends = f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f} %"
    assert f"Accuracy 70.0 % 95 % interval {ends}" in text
    assert f"70.0 % ({ends})" in text
    assert "synthetic" not in text.lower()


def test_a_clinician_reads_what_it_is_worth_as_a_test(page, run):
    text = page.text
    points = run.results["parts"]["test"]["operating_points"]
    # Two of three malignant images have 0.8, and so have two of the seven others.
    assert "the answer malignant the most probable class 66.7 % (" in text
    assert "71.4 % (" in text
    assert points[0]["best"]["value"] == 0
    assert "specificity at least 90 % no image is called malignant 0.0 % (0.0 to" in text
    ends = points[2]["best"]
    assert (
        "sensitivity at least 90 % probability of malignant from 10.0 % 100.0 % "
        f"{100 * ends['value']:.1f} % ({100 * ends['low']:.1f} to {100 * ends['high']:.1f} %)"
    ) in text
    assert "thresholds were found on these same images" in text
    assert "gave its answers a probability of 80 %; 70 % of them were right." in text
    assert "No temperature was fitted, as this run keeps no validation part" in text
    assert "Temperature-scaled" not in text
    # Squares: 0.2² + 2 × 0.1² where right, 0.8² + 0.9² ... where wrong, in the mean 0.48.
    assert "0.480 (" in text
    assert "10.0 %" in text  # ECE: all in one bin, 0.8 against 0.7
    assert "100.0 % 10 80.0 % 70.0 % (" in text  # all have the same probability
    assert "not checked for calibration" not in text


def test_the_temperature_of_the_validation_part_is_said(run, tmp_path):
    rows = run.predictions["test"]
    label = np.array([0, 0, 1])
    validation = Predictions([*"pqr"], np.zeros(3), label, np.array([[0.8, 0.1, 0.1]] * 3))
    parts = {"test": rows, "validation": validation}
    document = results.assemble(
        parts,
        protocol="paper",
        checkpoint={},
        leakage={},
        baselines={},
        resamples=20,
    )
    changed = dataclasses.replace(run, results=document, predictions=parts, pictures=[])
    write_report(tmp_path / "r.html", changed)
    text = Page((tmp_path / "r.html").read_text()).text
    assert "fitted on the 3 images of the validation part and on no others: T = 1.50" in text
    assert "was more sure than right there" in text
    assert "The temperature 1.50 was fitted on these images." in text
    assert text.count("Temperature-scaled") == 1
    # 0.8 becomes 2/3: |0.7 - 2/3| in one bin.
    assert f"{100 * (0.7 - 2 / 3):.1f} % (" in text
    assert "edge of its range" not in text
    right = Predictions(["p"], np.zeros(1), np.zeros(1), np.array([[0.8, 0.1, 0.1]]))
    document = results.assemble(
        {"test": rows, "validation": right},
        protocol="paper",
        checkpoint={},
        leakage={},
        baselines={},
        resamples=20,
    )
    predictions = {"test": rows, "validation": right}
    changed = dataclasses.replace(changed, results=document, predictions=predictions)
    write_report(tmp_path / "r.html", changed)
    assert "edge of its range, 0.05 to 20" in (tmp_path / "r.html").read_text()


def test_a_reviewer_finds_the_protocol_the_settings_and_the_command(page):
    text = page.text
    assert "Protocol: paper" in text
    assert "train 350 (1750) 168 (840) 106 (530) 624 (3120)" in text
    assert "external 1 (1) 1 (1) 0 (0) 2 (2)" in text
    assert "1 unreadable image was left out" in text
    assert "step 90 chosen latest" in text
    assert "python -m jaxbusi.main \\ --workdir 'a b' \\ --config.seed=1" in text
    assert 'data.root a<b> data.external "" data.scale [0.08, 1.0]' in text
    assert 'versions.jax 0.10.2 devices ["cpu:0", "cpu:1"]' in text
    assert "10 images 10 images, mean of three views 30 copies" in text
    assert "100 resamples, seed 0" in text
    assert "have a near-copy in the training part" in text
    assert "100.0 % (15.8 to 100.0 %) †" in text  # external: two of two, Clopper-Pearson
    assert "not defined" in text


def test_a_reviewer_finds_what_the_papers_numbers_imply(page):
    assert "780 images, not 830. It prints 487 benign, 210 malignant and 133 normal" in page.text
    assert "62.4 %, is 487 of 780. The public set has 437 benign images, 56.0 %" in page.text
    assert "independent, its 95 % interval would be 91.2 to 94.9 %" in page.text
    assert "it is 88.0 to 96.6 %, which holds 90 and 95 %" in page.text
    assert "76.8 % on its validation set. For 31 images of another hospital, 155" in page.text
    assert "it prints 80.6 %, 73.3 %, 74.2 % for the three classes" in page.text
    assert "at least 12.6 points below the 93.2 %" in page.text
    assert "these counts give 80.0 %, 73.3 %, 74.3 %, and no division" in page.text
    sections = [section["aria-labelledby"] for section in page.all("section")]
    assert sections[-1] == "paper-title"  # below everything about the run itself


def test_the_page_is_accessible(page):
    assert page.all("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("figcaption")) == len(page.all("figure")) == len(page.all("img"))
    assert all("scope" in cell for cell in page.all("th"))
    assert len(page.all("h1")) == 1
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    assert {link["href"][1:] for link in page.all("a")} <= set(identifiers)
    named = [section["aria-labelledby"] for section in page.all("section")]
    assert set(named) <= set(identifiers)


def test_phantoms_are_called_synthetic_in_the_headline(run, tmp_path):
    write_report(tmp_path / "r.html", dataclasses.replace(run, synthetic=True))
    text = (tmp_path / "r.html").read_text()
    assert re.search(r"<h1>runs/fusion – synthetic images</h1>", text)
    assert "none shows a patient" in text
    assert "trained on 624 computer-generated images" in text


def test_a_page_without_history_copies_or_mistakes(run, tmp_path):
    part = run.predictions["external"]
    document = results.assemble(
        {"test": part},
        protocol="my own",
        checkpoint={},
        leakage={},
        baselines={},
        resamples=20,
    )
    bare = dataclasses.replace(
        run, results=document, predictions={"test": part}, pictures=[], split={}, skipped=()
    )
    write_report(tmp_path / "r.html", bare)
    text = Page((tmp_path / "r.html").read_text()).text
    assert "Protocol: my own" in text
    assert "None: all 2 images got the right class." in text
    assert "no record of the training" in text
    assert "unreadable" not in text


def test_the_same_run_gives_the_same_page(run, written, tmp_path):
    write_report(tmp_path / "r.html", run)
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == written


def test_a_name_that_is_not_utf8_and_a_missing_figure(run, tmp_path):
    name = b"\xe9.png".decode("utf-8", "surrogateescape")
    write_report(tmp_path / "r.html", dataclasses.replace(run, skipped=[(name, "broken")]))
    assert "?.png" in (tmp_path / "r.html").read_text(encoding="utf-8")
    lost = dataclasses.replace(run.pictures[0], path=tmp_path / "lost.png")
    with pytest.raises(UserError, match=r"lost\.png: cannot be read"):
        write_report(tmp_path / "r.html", dataclasses.replace(run, pictures=[lost]))
