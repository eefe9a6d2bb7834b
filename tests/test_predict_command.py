"""The command: image files into rows, whole or in parts, stopped, resumed and shared."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxbusi import bulk, calibration_file, familiarity, predict, train
from jaxbusi.bulk import predict_files
from jaxbusi.data.images import decode_image, resize
from jaxbusi.data.threads import in_threads
from jaxbusi.errors import Interrupted, UserError
from jaxbusi.familiarity import Familiarity
from jaxbusi.fingerprint import weights_sha256
from jaxbusi.prediction_files import COLUMNS
from jaxbusi.predictor import Predictor
from jaxbusi.shards import Shard
from jaxbusi.state import make_mesh
from jaxbusi.steps import joined
from jaxbusi.train import train_and_evaluate
from scripts.fuzz_dicom import encode
from tests.disks import fill
from tests.runs import make_config
from tests.tiny import TinyModel

pytestmark = pytest.mark.usefixtures("tiny_model")

TORN = "phantoms/normal/torn.png"
PART_ROWS = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory, phantoms):
    """A workdir of a run, and beside it 30 images and one that is torn."""
    base = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build_model", lambda *_: TinyModel(dropout=0.3))
        patch.setattr("jaxbusi.evidence.write_evidence", lambda *_: {})  # takes seconds
        train_and_evaluate(make_config(phantoms, num_epochs=0.5), base / "run")
    for path in phantoms.glob("*/*).png"):
        link = base / path.relative_to(phantoms.parent)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    (base / TORN).write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return base


@pytest.fixture
def here(run, tmp_path, monkeypatch):
    """Works beside the run, with an empty folder for what is written."""
    monkeypatch.chdir(run)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return tmp_path / "out"


def predicted(out, **options):
    return predict_files(Path("run"), ["phantoms"], str(out), **options)


def in_parts(folder, **options):
    return predicted(f"{folder}/", part_rows=PART_ROWS, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_file_has_its_row(here):
    outcome = predicted(here / "p.csv")
    assert (outcome.images, outcome.failed, outcome.predicted) == (31, 1, 31)
    with (here / "p.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    names = [row["image"] for row in rows]
    assert names == sorted([*map(str, Path("phantoms").glob("*/*).png")), TORN])
    bad = rows.pop(names.index(TORN))
    assert bad["error"].startswith("is ")
    assert bad["benign"] == bad["malignant"] == bad["normal"] == bad["predicted"] == ""
    images = [decode_image(Path(row["image"]).read_bytes(), "image") for row in rows]
    wanted = Predictor.load("run")(images)
    found = np.array([[row[name] for name in Predictor.classes] for row in rows], np.float32)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    for row, probabilities in zip(rows, wanted, strict=True):
        assert row["predicted"] == Predictor.classes[np.argmax(probabilities)]
        assert row["error"] == ""


def test_every_frame_of_a_clip_has_its_row(here):
    folder = here.with_name("clips")
    folder.mkdir()
    frames = [np.full((20, 30), 12 * n, np.uint8) for n in range(1, 13)]
    whole = encode([frame.tobytes() for frame in frames], (20, 30))
    (folder / "IM1").write_bytes(whole)  # without an ending, as archives name them
    (folder / "clip.dcm").write_bytes(whole)
    (folder / "one.dcm").write_bytes(encode([frames[4].tobytes()], (20, 30), "MONOCHROME1"))
    (folder / "torn.dcm").write_bytes(whole[:-30])
    outcome = predict_files(Path("run"), [str(folder)], f"{here}/", part_rows=PART_ROWS)
    assert (outcome.images, outcome.failed) == (26, 1)
    rows = pq.read_table(here).to_pylist()
    numbered = [f"{folder}/{name}#{n}" for name in ("IM1", "clip.dcm") for n in range(1, 13)]
    assert [row["image"] for row in rows] == [
        *numbered,
        *(f"{folder}/{n}.dcm" for n in ("one", "torn")),
    ]
    assert rows[-1]["error"].startswith("is truncated")
    images = [
        np.repeat(frame[:, :, None], 3, axis=2) for frame in (*frames, *frames, 255 - frames[4])
    ]
    found = np.array([[row[name] for name in Predictor.classes] for row in rows[:-1]])
    np.testing.assert_allclose(found, Predictor.load("run")(images), atol=1e-6)


def probabilities(path):
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["error"]]
    return np.array([[float(row[name]) for name in Predictor.classes] for row in rows])


def test_probabilities_are_calibrated_where_the_run_was(here, run, monkeypatch, caplog):
    caplog.set_level("INFO")
    predicted(here / "raw.csv")
    assert "the probabilities are not calibrated: the run has no validation part" in caplog.text
    about = json.loads((here / "raw.csv.json").read_text())
    assert (about["calibrated"], about["temperature"]) == (False, None)
    in_parts(here / "parts", shard=Shard(0, 4))
    path = run / "run" / "calibration.json"
    fitted = {"temperature": 2.5, "fitted_on": "validation", "images": 6, "at_edge": False}
    try:
        calibration_file.write(run / "run", fitted, 3)
        predicted(here / "p.csv")
        assert "temperature 2.500, fitted on 6 images of the validation part" in caplog.text
        about = json.loads((here / "p.csv.json").read_text())
        assert (about["calibrated"], about["temperature"]) == (True, 2.5)
        powers = probabilities(here / "raw.csv") ** (1 / 2.5)
        wanted = powers / powers.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(probabilities(here / "p.csv"), wanted, atol=1e-6)
        with pytest.raises(UserError, match="before the run was evaluated again; name another"):
            in_parts(here / "parts")
        for changed, step, message in (
            ({}, 4, "calibration.json is of step 4, the weights are of step 3; run python -m"),
            ({"at_edge": True}, 3, "no temperature fits the 6 images"),
        ):
            calibration_file.write(run / "run", fitted | changed, step)
            predicted(here / "again.csv")
            assert message in caplog.text
            assert (here / "again.csv").read_bytes() == (here / "raw.csv").read_bytes()
        for broken in ("{", "[]", '{"temperature": -1.0}', '{"temperature": 2.0}'):
            path.write_text(broken)
            with pytest.raises(UserError, match=r"calibration.json cannot be read \(.*evaluate"):
                predicted(here / "p.csv")
    finally:
        path.unlink()


def test_images_unlike_the_training_data_are_told(here, run, monkeypatch, caplog):
    """By hand: only the first feature counts, and two classes lie at 0 and 1 of it."""
    caplog.set_level("INFO")
    model = train.load_model(run / "run", make_mesh(jax.local_devices()[:1]))
    images = [
        decode_image(path.read_bytes(), "x") for path in sorted(Path("phantoms").glob("*/*).png"))
    ]
    squares = np.stack([resize(image, 16) for image in images])
    features = joined(model.model.apply(model.variables, squares, train=False))
    width = features.shape[1]
    means = np.zeros((2, width), np.float32)
    means[1, 0] = 1
    whitening = np.zeros((width, width), np.float32)
    near = np.minimum(abs(features[:, 0]), abs(features[:, 0] - 1))
    whitening[0, 0] = 1 / np.median(near)  # half of the images are beyond the limit
    wanted = near / np.median(near)
    folder = here.with_name("copy")
    shutil.copytree(run / "run", folder)
    familiarity.write(folder, Familiarity(means, whitening, 100, 30), 3)
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        predict_files(folder, ["phantoms"], str(here / name))
    assert "the limit on 30 of the validation part" in caplog.text
    table = pq.read_table(here / "p.parquet").to_pylist()
    lines = [json.loads(line) for line in (here / "p.jsonl").read_text().splitlines()]
    with (here / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    good = [number for number, cells in enumerate(table) if cells["error"] is None]
    np.testing.assert_allclose([table[n]["distance"] for n in good], wanted, atol=1e-5)
    for cells, line, row in zip(table, lines, rows, strict=True):
        far = None if cells["error"] else cells["distance"] > 1
        assert cells["unfamiliar"] is line["unfamiliar"] is far
        assert row["unfamiliar"] == ("" if far is None else str(far).lower())
    count = sum(row["unfamiliar"] == "true" for row in rows)
    assert 0 < count < 30
    assert f"{count} of 30 images are unlike the training data" in caplog.text
    about = json.loads((here / "p.csv.json").read_text())
    assert len(about["familiarity_sha256"]) == 64

    predicted(here / "p.csv")
    assert "images unlike the training data cannot be told: the run has no valid" in caplog.text
    assert json.loads((here / "p.csv.json").read_text())["familiarity_sha256"] is None
    with (here / "p.csv").open(newline="") as file:
        assert {row["distance"] + row["unfamiliar"] for row in csv.DictReader(file)} == {""}


def test_the_formats_hold_the_same(here):
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        predicted(here / name)
    table = pq.read_table(here / "p.parquet")
    assert tuple(table.column_names) == COLUMNS
    lines = [json.loads(line) for line in (here / "p.jsonl").read_text().splitlines()]
    with (here / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for cells, line, row in zip(table.to_pylist(), lines, rows, strict=True):
        assert list(line) == list(COLUMNS)
        for name in COLUMNS:
            text = "" if line[name] is None else str(line[name])
            text = text.lower() if name == "unfamiliar" else text
            assert row[name] == text
            number = isinstance(line[name], float)
            assert cells[name] == (float(np.float32(line[name])) if number else line[name])
    about = json.loads((here / "p.parquet.json").read_text())
    assert about == {**json.loads((here / "p.csv.json").read_text())}
    assert (about["images"], about["failed"], about["checkpoint_step"]) == (31, 1, 3)
    inside = json.loads(table.schema.metadata[b"jaxbusi"])
    assert inside == {name: about[name] for name in inside}
    for name in ("weights_sha256", "config_sha256", "images_sha256"):
        assert len(inside[name]) == 64


def test_the_fingerprints_tell_weights_and_settings_apart(here, run):
    from jaxbusi import workdir

    one = {"params": {"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float32)}}
    same = {"params": {"b": np.ones(2, np.float32), "a": np.zeros((2, 3), np.float32)}}
    assert weights_sha256(one) == weights_sha256(same)
    for other in (np.zeros((3, 2), np.float32), np.zeros((2, 3), np.int32), np.ones((2, 3), "f4")):
        changed = {"params": {**one["params"], "a": other}}
        assert weights_sha256(changed) != weights_sha256(one)
    content = json.loads((run / "run" / "config.json").read_text())
    found = {}
    for key, value in (("root", "moved"), ("seed", 7), (None, None)):
        copy = json.loads(json.dumps(content))
        (copy["config"]["data"] if key == "root" else copy["config"])[key or "seed"] = (
            value if key else content["config"]["seed"]
        )
        folder = here / str(key)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(copy))
        found[key] = workdir.config_sha256(folder)
    assert found[None] == found["root"] == workdir.config_sha256(run / "run") != found["seed"]


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The parts as one process writes them, undisturbed."""
    folder = tmp_path_factory.mktemp("whole") / "parts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build_model", lambda *_: TinyModel(dropout=0.3))
        patch.chdir(run)
        outcome = in_parts(folder, shard=Shard(0, 1))
    assert (outcome.images, outcome.failed) == (31, 1)
    return contents(folder)


def test_parts_are_ranges_of_the_list(here, whole):
    for name, data in whole.items():
        here.mkdir(exist_ok=True)
        (here / name).write_bytes(data)
    assert sorted(whole) == ["_manifest.json", *(f"part-{n:05d}.parquet" for n in range(4))]
    sizes = [pq.read_metadata(path).num_rows for path in sorted(here.glob("part*"))]
    assert sizes == [8, 8, 8, 7]
    together = pq.read_table(here)  # the manifest is passed over
    predicted(here / "p.parquet")
    apart = pq.read_table(here / "p.parquet")
    assert together["image"] == apart["image"]
    assert together["error"] == apart["error"]
    for name in Predictor.classes:
        np.testing.assert_allclose(together[name].to_numpy(), apart[name].to_numpy(), atol=1e-6)


@pytest.mark.fault("prediction in shares: the same files, byte for byte")
@pytest.mark.parametrize("count", [2, 3, 6])
def test_shares_write_the_same_bytes(here, whole, count):
    outcomes = [in_parts(here, shard=Shard(index, count)) for index in reversed(range(count))]
    assert contents(here) == whole
    assert sum(outcome.images for outcome in outcomes) == 31
    assert sum(outcome.failed for outcome in outcomes) == 1


def test_the_processes_of_srun_and_the_tasks_of_an_array_share(here, whole, monkeypatch):
    predictor, about = bulk._load(Path("run"))
    for process in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(bulk, "_load", lambda _: (predictor, dict(about)))
            patch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
            patch.setenv("SLURM_NTASKS", "2")
            patch.setenv("SLURM_PROCID", str(process))
            patch.setenv("SLURM_ARRAY_TASK_ID", "1")
            patch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
            in_parts(here)
            with pytest.raises(UserError, match=r"4 processes cannot share; .* \(--out p/\)"):
                predicted(here / "p.csv")
    assert sorted(contents(here)) == ["_manifest.json", *(f"part-0000{n}.parquet" for n in (2, 3))]
    in_parts(here)
    assert contents(here) == whole


def stop_after(monkeypatch, images, number=signal.SIGTERM):
    """Sends this process a signal when so many images are written."""
    announce, seen = bulk._announce, []

    def stopping(rows, failed):
        seen.extend(rows.image)
        if len(seen) == images:
            os.kill(os.getpid(), number)
        return announce(rows, failed)

    monkeypatch.setattr(bulk, "_announce", stopping)


@pytest.mark.fault("SIGTERM while predicting: finished parts stay, the rest is made")
def test_a_stopped_folder_goes_on(here, whole, monkeypatch):
    monkeypatch.setattr(bulk, "_BATCH", 2)  # of 8 images on two devices: batches of 4
    with monkeypatch.context() as patch:
        stop_after(patch, 20)
        with pytest.raises(
            Interrupted, match="stopped by SIGTERM; finished parts are kept"
        ) as stop:
            in_parts(here)
    assert stop.value.status == 143
    assert sorted(contents(here)) == ["_manifest.json", *(f"part-0000{n}.parquet" for n in (0, 1))]
    kept = {path.name: path.stat().st_mtime_ns for path in here.iterdir()}
    outcome = in_parts(here)
    assert (outcome.images, outcome.failed, outcome.predicted) == (31, 1, 15)
    assert {name: (here / name).stat().st_mtime_ns for name in kept} == kept
    again = in_parts(here)
    assert (again.images, again.failed, again.predicted) == (31, 1, 0)
    # Batches are as large whatever was left to do.
    undisturbed = here.with_name("undisturbed")
    in_parts(undisturbed)
    assert contents(here) == contents(undisturbed)


def test_a_stopped_file_leaves_nothing(here, monkeypatch):
    monkeypatch.setattr(bulk, "_BATCH", 2)
    here.mkdir()
    (here / ".p.csv.0123456789ab.part").touch()  # of a process that was killed
    stop_after(monkeypatch, 8, signal.SIGINT)
    with pytest.raises(Interrupted, match="begun again by the same command") as stop:
        predicted(here / "p.csv")
    assert stop.value.status == 130
    assert contents(here) == {}


def test_a_signal_at_the_end_comes_too_late(here, monkeypatch):
    stop_after(monkeypatch, 31)
    assert predicted(here / "p.csv").images == 31


def test_another_list_model_or_size_is_refused(here, whole, run, monkeypatch):
    here.mkdir()
    for name, data in whole.items():
        (here / name).write_bytes(data)

    def refused(message, given=("phantoms",), rows=PART_ROWS):
        with pytest.raises(UserError, match=message) as error:
            predict_files(Path("run"), given, f"{here}/", part_rows=rows)
        assert "\n" not in str(error.value)

    refused(r"another list of images \(31, now 17\)", ["phantoms/benign"])
    refused(r"another list of images \(31, now 31\)", [str(run / "phantoms")])
    refused("begun with --part-rows=8; give the same", rows=9)
    with monkeypatch.context() as patch:
        patch.setattr("jaxbusi.fingerprint.weights_sha256", lambda _: "0" * 64)
        refused(r"another model \(step 3, weights [0-9a-f]{12}…; now step 3, 000000000000…\)")
    other, part = here.with_name("other"), here / "part-00002.parquet"
    predict_files(Path("run"), ["phantoms/benign"], f"{other}/", part_rows=PART_ROWS)
    for data in (whole["part-00003.parquet"], (other / "part-00001.parquet").read_bytes()):
        part.write_bytes(data)
        refused(r"part-00002.parquet is of another list or model; delete it")
    part.write_bytes(whole[part.name][:-30])
    refused(r"part-00002.parquet cannot be read \(.*\); delete it and run")
    (here / "_manifest.json").write_text("{")
    refused("_manifest.json cannot be read")
    (here / "_manifest.json").unlink()
    refused("holds parts without a _manifest.json")


@pytest.mark.fault("disk full: parts of predictions")
def test_a_full_disk_leaves_whole_parts_only(small_disk, here):
    in_parts(small_disk, shard=Shard(0, 2))
    before = contents(small_disk)
    ballast = fill(small_disk)
    for out in (f"{small_disk}/", small_disk / "p.csv", small_disk / "p.jsonl"):
        rows = PART_ROWS if str(out).endswith("/") else None
        with pytest.raises(UserError, match=r"cannot be written \(No space left") as error:
            predicted(out, part_rows=rows)
        assert "\n" not in str(error.value)
        assert {path.name for path in small_disk.iterdir()} == {*before, "ballast"}
    ballast.unlink()
    assert contents(small_disk) == before
    assert in_parts(small_disk).predicted == 15


def test_every_batch_has_one_shape(here, monkeypatch):
    shapes = set()
    start = Predictor.start

    def watch(self, squares):
        shapes.add(squares.shape)
        return start(self, squares)

    monkeypatch.setattr(Predictor, "start", watch)
    predicted(f"{here}/a/", part_rows=30, shard=Shard(1, 2))  # the last image alone
    assert shapes == {(32, 16, 16, 3)}  # as large as for the part of 30
    shapes.clear()
    in_parts(here)
    monkeypatch.setattr(bulk, "_BATCH", 4)  # on each of two devices
    predicted(here / "p.csv")
    assert shapes == {(8, 16, 16, 3)}
    shapes.clear()
    predict_files(Path("run"), [TORN], str(here / "one.csv"))
    assert shapes == {(2, 16, 16, 3)}  # no more than a few images need


def test_what_is_read_ahead_is_bounded():
    begun = []
    results = in_threads(lambda item: begun.append(item) or item, range(100), ahead=3)
    for consumed, result in enumerate(results, 1):
        assert result == consumed - 1
        assert len(begun) <= consumed + 3
        if consumed == 50:
            break
    results.close()
    assert len(begun) < 60


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("p.txt", {}, "--out 'p.txt' is of no known format"),
        ("", {}, "--out '' is of no known format"),
        ("p.csv", {"part_rows": 5}, "--part-rows is for folders"),
        ("p.csv", {"shard": Shard(0, 2)}, r"2 processes cannot share; name a folder"),
        ("phantoms/list.csv", {}, "is an INPUT itself"),
    ],
)
def test_wrong_settings(here, out, options, message):
    given = ["phantoms", "phantoms/list.csv"]
    with pytest.raises(UserError, match=message):
        predict_files(Path("run"), given, out, **options)


def test_without_pyarrow_it_says_what_to_install(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for out in ("p.parquet", f"{here}/"):
        with pytest.raises(UserError, match=r"pip install 'jaxbusi\[parquet\]'"):
            predicted(out)
    assert predicted(here / "p.csv").images == 31


def test_weights_that_give_no_numbers_are_refused(here, monkeypatch):
    load = train.load_model

    def broken(workdir, mesh):
        run = load(workdir, mesh)
        run.variables["params"]["head"]["bias"] *= np.nan
        return run

    monkeypatch.setattr(train, "load_model", broken)
    with pytest.raises(UserError, match=r"benign \(1\).png: the model gives no numbers"):
        predicted(here / "p.csv")
    assert contents(here) == {}


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, words)])
    monkeypatch.setattr(predict.command, "run_alone", lambda work: work())
    try:
        predict.main()
    except SystemExit as end:
        return end.code
    return 0


def test_the_command_line(here, monkeypatch, capsys):
    words = ["--workdir", "run", "phantoms", "--out", f"{here}/", "--part-rows=10", "--shard=0/2"]
    assert command(monkeypatch, *words) == 0
    assert capsys.readouterr().out.startswith(f"20 images in {here}/; ")
    words[-1] = "--shard=0/1"
    assert command(monkeypatch, *words) == 1
    summary = capsys.readouterr().out
    assert summary.startswith(
        f"31 images in {here}/, 1 of them bad files (see the column error); 20 of them had been "
        "done before; "
    )
    assert summary.endswith(" images/s\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workdir=run", "--out=p.csv"], "INPUT"),
        (["--workdir=run", "x.png"], "--out"),
        (["--workdir=run", "--out=p/", "--part-rows=0", "x.png"], "0 is no number of images"),
        (["--workdir=run", "--out=p/", "--shard=2/2", "x.png"], "--shard=2/2 is no share"),
    ],
)
def test_a_wrong_command_line_is_one_line(monkeypatch, capsys, words, message):
    assert command(monkeypatch, *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_process_of_its_own_says_in_one_line_what_is_wrong(tmp_path):
    (tmp_path / "x.png").touch()
    result = subprocess.run(
        [sys.executable, "-m", "jaxbusi.predict", "--workdir=none", "x.png", "--out=p.csv"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("jaxbusi: none holds no run")
    assert "Traceback" not in result.stderr
    assert "Logging before" not in result.stderr


def test_a_pipe_is_a_bad_file_and_not_waited_for(here, tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    outcome = predict_files(Path("run"), ["phantoms", str(pipe)], f"{here}.csv")
    assert outcome.failed == 2  # with the torn one
    with Path(f"{here}.csv").open() as file:
        errors = {row["image"]: row["error"] for row in csv.DictReader(file)}
    assert errors[str(pipe)] == "is no regular file; put the image itself there"
