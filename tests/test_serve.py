"""The JSON API of a served run: its numbers, its refusals, many at a time, nothing kept."""

import asyncio
import base64
import concurrent.futures
import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from starlette.responses import JSONResponse

from jaxbusi.data.images import decode_image, resize
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import Interrupted, UserError
from jaxbusi.explain.training_features import TrainingFeatures
from jaxbusi.predictor import Predictor
from jaxbusi.serve import limits
from jaxbusi.serve.__main__ import main
from jaxbusi.serve.batching import Batcher
from jaxbusi.serve.limits import RateLimit, bind, check_secret
from jaxbusi.serve.loading import load
from jaxbusi.serve.neighbours import Neighbours
from jaxbusi.serve.record import Record, calibrate
from jaxbusi.serve.refusal import Refusal
from jaxbusi.serve.server import serve
from jaxbusi.train import train_and_evaluate
from scripts.fuzz_dicom import encode
from tests.runs import make_config
from tests.serving import LIMITS, serving, tiny_fusion, trained_once

TOKEN = "a-token-of-the-tests-0123456789"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, worker_id, phantoms):
    trained = trained_once(tmp_path_factory, worker_id, phantoms)
    return shutil.copytree(trained, tmp_path_factory.mktemp("served") / "run")


@pytest.fixture(scope="module")
def run(workdir):
    with tiny_fusion():
        return load(workdir)


@pytest.fixture(scope="module")
def served(run):
    with serving(run) as found:
        yield found


@pytest.fixture(scope="module")
def files(phantoms):
    """Encoded images by name."""
    paths = sorted(path for path in phantoms.glob("*/*).png"))
    return {str(path.relative_to(phantoms)): path.read_bytes() for path in paths}


def decoded(url):
    head, data = url.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_the_probabilities_are_those_that_predicting_gives(served, workdir, files):
    images = [decode_image(data, "") for data in list(files.values())[:3]]
    with tiny_fusion():
        calibrated = served.run.about["calibration"]["calibrated"]
        predictor = Predictor.load(workdir, calibrated=calibrated)
        probabilities, distances = predictor(images), predictor.distance(images)
    for number, data in enumerate(list(files.values())[:3]):
        status, _, answer = served.ask("/api/classify", data)
        assert status == 200
        rows = [answer["probabilities"][name] for name in CLASSES]
        values = [row["value"] for row in rows]
        np.testing.assert_allclose(values, probabilities[number], atol=1e-6)
        assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
        assert any(row["low"] < row["high"] for row in rows)
        assert answer["distance"] == pytest.approx(distances[number], rel=1e-4)
        assert answer["unfamiliar"] == (answer["distance"] > 1)
        assert (answer["height"], answer["width"]) == images[number].shape[:2]
        assert set(answer).isdisjoint({"image", "maps", "neighbours"})


def test_an_explanation_adds_up_and_shows_what_was_sent(served, files):
    data = next(iter(files.values()))
    status, _, answer = served.ask("/api/explain", data)
    assert status == 200
    np.testing.assert_array_equal(decoded(answer["image"]), decode_image(data, ""))
    parts = answer["contributions"]
    assert set(parts["points"]) == set(served.run.about["branches"]) == {"resnet18", "vit"}
    for label in CLASSES:
        summed = parts["baseline"][label] + sum(row[label] for row in parts["points"].values())
        assert summed == pytest.approx(answer["probabilities"][label]["value"], abs=1e-6)
    assert sum(parts["shares"].values()) == pytest.approx(1)
    assert set(answer["maps"]) == set(served.run.about["maps"])
    for shown in answer["maps"].values():
        pixels = decoded(shown["png"])
        assert pixels.shape[2] == 4
        assert shown["empty"] == (pixels[..., 3].max() == 0)


def test_a_training_image_is_its_own_nearest_and_is_said_to_be_one(served, workdir, files):
    rows = [line.split(",") for line in (workdir / "split.csv").read_text().splitlines()]
    part = {row[0]: row[4] for row in rows[1:]}
    for wanted in ("train", "test"):
        name = next(name for name, where in part.items() if where == wanted)
        _, _, answer = served.ask("/api/explain", files[name])
        assert answer["trained_on"] == (wanted == "train")
        nearest = answer["neighbours"]
        assert all(part[row["image"]] == "train" for row in nearest)
        assert all(row["label"] == row["image"].split("/")[0] for row in nearest)
        likeness = [row["similarity"] for row in nearest]
        assert likeness == sorted(likeness, reverse=True)
        if wanted == "train":
            assert nearest[0]["image"] == name
            assert likeness[0] == pytest.approx(1)
            image, shown = decode_image(files[name], ""), decoded(nearest[0]["png"])
            assert max(shown.shape) == 160
            assert shown.shape[0] / shown.shape[1] == pytest.approx(
                image.shape[0] / image.shape[1], rel=0.02
            )
            small = resize(image, 16).astype(int)
            own, other = (
                np.abs(resize(decoded(row["png"]), 16) - small).mean() for row in nearest[:2]
            )
            assert own < other / 2


def test_a_training_image_may_have_a_name_of_any_bytes():
    name = os.fsdecode(b"benign/\xff.png")
    store = types.SimpleNamespace(
        records=[types.SimpleNamespace(name=name)],
        sizes=[(4, 5)],
        view=lambda _: np.zeros((8, 8, 3), np.uint8),
    )
    features = {"vit": np.zeros((1, 2), np.float32)}
    neighbours = Neighbours(TrainingFeatures((name,), np.array([0]), features), store)
    [nearest] = neighbours.nearest({"vit": np.ones(2, np.float32)})
    answer = JSONResponse(nearest).body
    assert json.loads(answer)["image"] == r"benign/\udcff.png"


def test_of_a_clip_the_frame_that_is_asked_for_is_seen(served):
    frames = np.zeros((3, 40, 50), np.uint8)
    frames[1, 10:30, 10:30] = 200
    data = encode([frame.tobytes() for frame in frames], frames.shape[1:], NumberOfFrames=3)
    _, _, first = served.ask("/api/explain", data)
    status, _, second = served.ask("/api/explain?frame=2", data)
    assert status == 200
    assert (first["frame"], second["frame"], second["frames"]) == (1, 2, 3)
    assert not decoded(first["image"]).any()
    assert decoded(second["image"])[20, 20].tolist() == [200, 200, 200]
    status, _, answer = served.ask("/api/explain?frame=4", data)
    assert (status, answer["error"]) == (422, "the file has no frame 4; it has 3")


@pytest.mark.parametrize(
    ("path", "body", "method", "status", "words"),
    [
        ("/api/classify", b"", "POST", 400, "no body"),
        ("/api/classify", b"<svg xmlns='http://www.w3.org/2000/svg'/>", None, 415, "PNG, JPEG"),
        ("/api/classify", b"\x89PNG\r\n\x1a\n and no more", None, 422, "not a PNG"),
        ("/api/classify?frame=0", b"x", None, 400, "frame"),
        ("/api/classify?frame=²", b"x", None, 400, "frame"),
        ("/api/classify", bytes((1 << 20) + 1), None, 413, "1 MiB"),
        ("/api/classify", None, "GET", 405, "Method"),
        ("/api/nothing", None, "GET", 404, "Not Found"),
        ("/api/model/", None, "GET", 404, "Not Found"),
        ("/static/../server.py", None, "GET", 404, "Not Found"),
    ],
)
def test_what_is_refused_is_told_why(path, body, method, status, words, served):
    found, headers, answer = served.ask(path.replace("²", "%C2%B2"), body, method)
    assert found == status
    assert words in answer["error"]
    assert "\n" not in answer["error"]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_file_that_is_cut_off_is_no_image(served, files):
    status, _, answer = served.ask("/api/explain", next(iter(files.values()))[:-20])
    assert status == 422
    assert answer["error"].startswith("the file is damaged or truncated")


def test_a_body_without_a_length_is_measured(served):
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=30)
    with connection:
        connection.sendall(
            b"POST /api/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = bytes(1 << 16)
        for _ in range(17):
            connection.sendall(b"10000\r\n" + chunk + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_connections_that_ask_nothing_do_not_lock_out_others(served, monkeypatch):
    monkeypatch.setattr("jaxbusi.serve.connections.SECONDS", 5.0)
    beginnings = (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
        *([b"", b"GET / HTTP/1.1\r\nHost: "] * 50),  # as many as may be open, and none is answered
    )
    address = "127.0.0.1", served.port
    silent = [(socket.create_connection(address, timeout=20), sent) for sent in beginnings]
    for connection, sent in silent:
        connection.sendall(sent)
    assert served.ask("/api/model")[0] == 503
    for connection, sent in silent:
        with connection, contextlib.suppress(ConnectionError):
            # A byte now and then changes nothing.
            connection.sendall(sent and b"x")
            while connection.recv(1 << 16):
                pass
    assert served.ask("/api/model")[0] == 200


def test_who_hangs_up_is_not_worked_for(run, files, monkeypatch):
    asked, left, together, go = [], [], [], threading.Event()

    class Held:
        def answer(self, questions):
            together.append(len(questions))
            assert go.wait(30)
            return run.analyst.answer(questions)

    async def ask(self, question, ask=Batcher.ask):
        asked.append(1)
        try:
            return await ask(self, question)
        finally:
            left.append(1)

    def until(fact):
        end = time.monotonic() + 30
        while not fact():
            assert time.monotonic() < end
            time.sleep(0.01)

    monkeypatch.setattr(Batcher, "ask", ask)
    data = next(iter(files.values()))
    head = b"POST /api/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with serving(dataclasses.replace(run, analyst=Held())) as served:
        try:
            stays, *others = [
                socket.create_connection(("127.0.0.1", served.port), timeout=60) for _ in range(4)
            ]
            stays.sendall(head % len(data) + data)
            until(lambda: together)
            for connection in others:
                connection.sendall(head % len(data) + data)
            until(lambda: len(asked) == 4)
            for connection in others:
                connection.close()
            until(lambda: len(left) == 3)
        finally:
            go.set()
        with stays:
            assert stays.recv(100).startswith(b"HTTP/1.1 200")
        assert served.ask("/api/classify", data)[0] == 200
    assert together == [1, 1]


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(served):
    small = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(small, "PNG")
    assert small.tell() < LIMITS.bytes
    status, _, answer = served.ask("/api/classify", small.getvalue())
    assert status == 422
    assert "64,000,000 pixels" in answer["error"]


def test_pages_of_other_servers_and_other_names_are_refused(served, files):
    data = next(iter(files.values()))
    own = {"Origin": f"http://127.0.0.1:{served.port}", "Sec-Fetch-Site": "same-origin"}
    assert served.ask("/api/classify", data, headers=own)[0] == 200
    for headers in (
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": f"http://127.0.0.1:{served.port}@elsewhere.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "elsewhere.example"},
        {"Host": "["},
    ):
        status, _, answer = served.ask("/api/classify", data, headers=headers)
        assert status == 403
        assert set(answer) == {"error"}


def test_every_answer_forbids_what_the_page_does_not_need(served):
    for path in ("/", "/static/page.css", "/static/page.js", "/api/model", "/api/nothing"):
        status, headers, _ = served.ask(path)
        assert status == (404 if path == "/api/nothing" else 200)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_the_token_is_asked_for_and_the_rate_is_kept(run, files):
    data = next(iter(files.values()))
    with serving(run, limits_of(token=TOKEN, per_minute=5)) as served:
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert served.ask("/")[0] == 200
        status, headers, _ = served.ask("/api/classify", data)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert served.ask("/api/classify", data, headers={"Authorization": "Bearer x"})[0] == 401
        assert served.ask("/api/classify", data, headers={"Authorization": TOKEN})[0] == 401
        assert served.ask("/api/classify", data, headers=right)[0] == 200
        # By this name a proxy may call it.
        elsewhere = {**right, "Host": "images.hospital.example"}
        assert served.ask("/api/model", headers=elsewhere)[0] == 200
        other = {**right, "X-Forwarded-For": "192.0.2.1"}  # as if it were another's
        status, headers, _ = served.ask("/api/classify", data, headers=other)
        assert status == 429
        assert 1 <= int(headers["retry-after"]) <= 12


def limits_of(**changes):
    return type(LIMITS)(**{**vars(LIMITS), **changes})


def test_the_program_of_the_documentation(served, files, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
    [program] = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("image.png").write_bytes(next(iter(files.values())))
    exec(program.replace("http://127.0.0.1:8000/", served.url), {})
    predicted, probability = capsys.readouterr().out.split(maxsplit=1)
    assert predicted in CLASSES
    assert "low" in probability


def test_what_was_not_used_is_saved_for_a_minute():
    now = [0.0]
    rate = RateLimit(6, clock=lambda: now[0])
    for _ in range(6):
        rate.take("a")
    with pytest.raises(Refusal) as refusal:
        rate.take("a")
    assert refusal.value.retry_after == 10
    rate.take("b")
    now[0] = 10
    rate.take("a")
    now[0] = 1000
    for _ in range(6):
        rate.take("a")
    with pytest.raises(Refusal):
        rate.take("a")


def test_two_hundred_requests_of_twenty_clients_are_all_answered(served, files):
    bodies = list(files.values())
    alone = [served.ask("/api/classify", data)[2]["probabilities"] for data in bodies]
    sizes, before = [], resident()

    def client(first):
        wrong = []
        for number in range(first, first + 10):
            kind = "explain" if number % 5 == 0 else "classify"
            status, _, answer = served.ask(f"/api/{kind}", bodies[number % len(bodies)])
            expected = [row["value"] for row in alone[number % len(bodies)].values()]
            found = answer.get("probabilities", {}).values()
            if status != 200 or not np.allclose([r["value"] for r in found], expected, atol=1e-5):
                wrong.append((status, answer))
            sizes.append(resident())
        return wrong

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert [row for rows in pool.map(client, range(0, 200, 10)) for row in rows] == []
    # The first half may fill caches; after it, nothing is added.
    assert max(sizes[100:]) - max(sizes[:100]) < 32 << 20
    assert resident() - before < 256 << 20


def resident():
    """Bytes of memory that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_questions_that_wait_are_answered_together_and_too_many_are_refused(monkeypatch):
    monkeypatch.setattr("jaxbusi.serve.batching.WAITING", 3)
    together, go = [], threading.Event()

    def answer(questions):
        together.append(list(questions))
        assert go.wait(10)
        if 13 in questions:
            raise ValueError("not this one")
        return [2 * question for question in questions]

    async def ask_all():
        batcher = Batcher(answer)
        first = asyncio.create_task(batcher.ask(0))
        while not together:
            await asyncio.sleep(0.01)
        gone = asyncio.create_task(batcher.ask(1))
        others = [asyncio.create_task(batcher.ask(number)) for number in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as refusal:
            await batcher.ask(4)
        assert refusal.value.status == 503
        gone.cancel()
        await asyncio.sleep(0)
        go.set()
        assert [await task for task in (first, *others)] == [0, 4, 6]
        with pytest.raises(ValueError, match="not this one"):
            await batcher.ask(13)
        assert await batcher.ask(5) == 10  # an error ends nothing
        batcher.close()

    asyncio.run(ask_all())
    assert together == [[0], [2, 3], [13], [5]]


def test_a_record_is_of_answers_about_as_sure():
    confidence = np.linspace(0.4, 1.0, 90)
    record = Record(confidence, confidence > 0.7)
    sure, unsure = record.near(0.99), record.near(0.41)
    assert (sure["images"], sure["correct"], sure["value"]) == (30, 30, 1)
    assert (unsure["correct"], unsure["low"]) == (0, 0)
    assert 0.8 < sure["low"] < sure["high"] == 1


def test_calibrating_probabilities_is_dividing_logits():
    logits = np.array([[2.0, -1.0, 0.5]])
    odds = np.exp(logits / 1.7)
    given = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(calibrate(given, 1.7), odds / odds.sum())


@pytest.mark.usefixtures("undrawn")
def test_a_transformer_alone_in_bfloat16_without_a_validation_part(tmp_path, phantoms, files):
    with tiny_fusion(branches=("vit",), dtype=jnp.bfloat16):
        train_and_evaluate(make_config(phantoms, num_epochs=0.3), tmp_path)
        found = load(tmp_path)
        with serving(found) as served:
            _, _, answer = served.ask("/api/explain", next(iter(files.values())))
    assert set(answer["maps"]) == set(found.about["maps"]) == {"rollout", "gradient_attention"}
    assert answer["contributions"]["shares"] == {"vit": 1}
    assert answer["distance"] is None
    assert not found.about["calibration"]["calibrated"]


def test_a_run_without_its_images_or_results_still_answers(workdir, files, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(workdir, bare)
    for name in ("calibration.json", "familiarity.npz", "results.json"):
        (bare / name).unlink()
    config = json.loads((bare / "config.json").read_text())
    config["config"]["data"]["root"] = str(tmp_path / "gone")
    (bare / "config.json").write_text(json.dumps(config))
    with tiny_fusion():
        found = load(bare)
    with serving(found) as served:
        _, _, about = served.ask("/api/model")
        assert not about["calibration"]["calibrated"]
        assert not about["familiarity"]["known"]
        assert not about["neighbours"]["known"]
        assert "gone" in about["neighbours"]["about"]
        _, _, answer = served.ask("/api/explain", next(iter(files.values())))
    assert answer["record"] is answer["distance"] is answer["neighbours"] is None
    assert answer["unfamiliar"] is None
    assert sum(row["value"] for row in answer["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("host", "token", "words"),
    [
        ("0.0.0.0", None, "JAXBUSI_TOKEN"),
        ("::", None, "JAXBUSI_TOKEN"),
        ("no.such.host.invalid", TOKEN, "no address"),
        ("n" * 64 + ".invalid", TOKEN, "no address"),
        ("192.0.2.1", TOKEN, "cannot be used"),
    ],
)
def test_addresses_are_refused(host, token, words):
    with pytest.raises(UserError, match=words):
        bind(host, 0, token)


def test_addresses_of_this_machine_and_others_with_a_token_are_taken():
    for host, token, alone in (("localhost", None, True), ("0.0.0.0", TOKEN, False)):
        listener, loopback = bind(host, 0, token)
        with listener:
            assert loopback == alone
            if alone:
                listener.listen()
                with pytest.raises(UserError, match="name another port"):
                    bind(host, listener.getsockname()[1], None)


def test_tokens_that_could_be_guessed_are_refused():
    assert check_secret("") is check_secret(None) is None
    assert check_secret(TOKEN) == TOKEN
    for token in ("short", "with a space in the middle", "ümlaute-are-no-header"):
        with pytest.raises(UserError, match=str(limits.LEAST_TOKEN)):
            check_secret(token)


def test_what_is_no_run_is_refused_and_its_address_is_free_again(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXBUSI_TOKEN", raising=False)
    for host, words in (("127.0.0.1", "gone"), ("0.0.0.0", "JAXBUSI_TOKEN")):
        with pytest.raises(UserError, match=words):
            serve(tmp_path / "gone", host, 0, megabytes=1, per_minute=1)
    assert not list(tmp_path.iterdir())


def test_who_does_not_wait_until_the_run_is_loaded_may_end_it(tmp_path, monkeypatch):
    def load(_):
        raise KeyboardInterrupt

    monkeypatch.delenv("JAXBUSI_TOKEN", raising=False)
    monkeypatch.setattr("jaxbusi.serve.server.load", load)
    with pytest.raises(Interrupted, match="not ready") as interrupted:
        serve(tmp_path, "127.0.0.1", 0, megabytes=1, per_minute=1)
    assert interrupted.value.status == 130


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--workdir"),
        (["--workdir", "gone", "--port", "70000"], "70000 is no number from 0 to 65535"),
        (["--workdir", "gone", "--rate", "-1"], "-1 is no number from 1"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["serve", *arguments])
    with pytest.raises(SystemExit) as status:
        main()
    assert status.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_a_signal_ends_the_command_and_requests_under_way_are_finished(workdir, files, tmp_path):
    """The command in a process of its own, with the tiny classifier in the place of the run's."""
    program = (
        "import sys\n"
        "from tests.tiny import tiny_fusion\n"
        "from jaxbusi.serve.__main__ import main\n"
        "with tiny_fusion():\n"
        "    main()\n"
    )
    command = [sys.executable, "-c", program, "--workdir", str(workdir), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("open http://127.0.0.1:")
        port = int(line.split(":")[2].split("/")[0])
        time.sleep(0.1)
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        data = next(iter(files.values()))
        connection.sendall(
            b"POST /api/explain HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
            % len(data)
        )
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        connection.sendall(data)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        connection.close()
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert "nothing that was sent is kept" in log
    assert sorted(path.name for path in tmp_path.iterdir()) == []
