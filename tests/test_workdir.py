"""What a run left is read again, or refused in one line that names the file."""

import json

import pytest

from configs import fusion
from jaxbusi import workdir
from jaxbusi.errors import UserError
from jaxbusi.logs import read_history
from jaxbusi.settings import Settings

LINE = b'{"step": 9, "epoch": 1.0, "part": "train", "loss": 0.5, "recall": null}\n'


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path):
    assert read_history(tmp_path) == []
    for rest in (b'{"step": 1', b"\0\0\0", b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "metrics.jsonl").write_bytes(LINE + rest)
        assert [line["step"] for line in read_history(tmp_path)] == [9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\n" + LINE, "line 1 is not JSON"),
        (b"[" * 100_000 + b"\n" + LINE, "line 1 is not JSON"),
        (b'{"step": ' + b"9" * 5000 + b"}\n" + LINE, "line 1 is not JSON"),
        (LINE + b"3\n", "line 2 does not hold step, epoch, part and numbers"),
        (LINE.replace(b"9", b'"9"'), "line 1 does not hold"),
        (LINE.replace(b"9", b"-9"), "line 1 does not hold"),
        (LINE.replace(b'"train"', b"[]"), "line 1 does not hold"),
        (LINE.replace(b'"part"', b'"prat"'), "line 1 does not hold"),
        (LINE.replace(b"0.5", b'"high"'), "line 1 does not hold"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
    (tmp_path / "metrics.jsonl").write_bytes(text)
    with pytest.raises(UserError, match=rf"metrics\.jsonl {message}") as caught:
        read_history(tmp_path)
    assert str(caught.value).isprintable()


def test_a_folder_in_the_place_of_metrics(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read \(Is a directory\)"):
        read_history(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100_000, '{"config": []}', '{"config": {"seed": %s}}' % ("9" * 5000)]
)
def test_a_config_that_is_none_of_ours(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json cannot be read .* or train again"):
        workdir.read_config(tmp_path)


@pytest.mark.parametrize("origins", [3, {"vit": []}, {"vit": {"mean": 1}}, {"vit": None}])
def test_origins_that_are_none(tmp_path, origins):
    config = Settings.from_config(fusion.get_config()).to_json()
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "origins": origins}))
    assert workdir.read_settings(tmp_path).seed == config["seed"]
    with pytest.raises(UserError, match=r"config\.json cannot be read \(.*origin"):
        workdir.read_origins(tmp_path)
