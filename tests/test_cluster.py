"""Real processes over loopback: the same numbers as one, stopping together, a process that dies."""

import csv
import functools
import json
import re

import jax
import numpy as np
import pytest

from jaxbusi import cluster, train
from jaxbusi.checkpoints import Checkpoints
from jaxbusi.errors import UserError
from jaxbusi.state import abstract_variables, make_mesh
from tests.clusters import run_cluster
from tests.runs import FULL_CAMPAIGN, make_config
from tests.tiny import TinyModel


def flags(root, workdir):
    """The command line of `make_config`."""
    return [
        "main",
        "--config=configs/fusion.py",
        f"--workdir={workdir}",
        f"--config.data.root={root}",
        f"--config.data.external={root}",
        "--config.num_epochs=2",
        "--config.batch_size=8",
        "--config.data.copies=2",
        "--config.data.augment.resize=18",
        "--config.data.augment.crop=16",
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, phantoms):
    """The workdir of a run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build_model", lambda *_: TinyModel(dropout=0.3))
        workdir = tmp_path_factory.mktemp("alone") / "run"
        config = make_config(phantoms, **{"data.external": str(phantoms)})
        train.train_and_evaluate(config, workdir)
    return workdir


def assert_same_run(workdir, other):
    """Losses, final parameters and predictions agree to 1e-5, everything else exactly."""
    one, two = ((w / "metrics.jsonl").read_text().splitlines() for w in (workdir, other))
    assert len(one) == len(two) == 6
    for line, again in zip(map(json.loads, one), map(json.loads, two), strict=True):
        assert (line["step"], line["part"]) == (again["step"], again["part"])
        np.testing.assert_allclose(line["loss"], again["loss"], atol=1e-5)
    for part in ("test", "external"):
        tables = []
        for folder in (workdir, other):
            with (folder / f"predictions_{part}.csv").open() as file:
                tables.append(list(csv.DictReader(file)))
        for row, again in zip(*tables, strict=True):
            assert all(row[key] == again[key] for key in ("image", "copy", "label"))
            for key in ("benign", "malignant", "normal"):
                assert abs(float(row[key]) - float(again[key])) < 1e-5
    assert (workdir / "split.csv").read_bytes() == (other / "split.csv").read_bytes()
    states = []
    like = abstract_variables(TinyModel(), make_mesh(), image_size=16)
    for folder in (workdir, other):
        checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
        step, variables = checkpoints.newest(functools.partial(checkpoints.restore_variables, like))
        assert step == 12
        states.append(variables)
        checkpoints.close()
    for x, y in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


# Of processes and devices of each.
SHAPES = [(2, 2), (1, 4), (1, 8), (2, 4), (4, 1), (4, 2)] if FULL_CAMPAIGN else [(2, 2)]


@pytest.mark.fault("training over processes and devices: as one process, to 1e-5")
@pytest.mark.parametrize(("processes", "devices"), SHAPES)
def test_processes_make_the_run_that_one_makes(tmp_path, phantoms, alone, processes, devices):
    ended = run_cluster(flags(phantoms, tmp_path / "run"), processes, devices)
    for status, output in ended:
        assert status == 0, output
    assert "report.html" in ended[0].output
    assert all("accuracy" not in output for _, output in ended[1:])  # the first alone reports
    assert_same_run(alone, tmp_path / "run")


@pytest.mark.fault("study over several processes: as one process, to 1e-5")
@pytest.mark.skipif(not FULL_CAMPAIGN, reason="only in scripts/fault_campaign.py")
def test_processes_make_the_study_that_one_makes(tmp_path, phantoms):
    def words(name):
        common = [word for word in flags(phantoms, tmp_path / name)[2:] if "external" not in word]
        study = ["--config.study.seeds=(0,)", "--config.study.arms=('ResNet18', 'ViT')"]
        return ["study", "--config=configs/table4.py", *common, *study]

    for name, processes in (("one", 1), ("two", 2)):
        for status, output in run_cluster(words(name), processes, devices=1):
            assert status == 0, output
    one, two = (json.loads((tmp_path / name / "study.json").read_text()) for name in ("one", "two"))
    for arm in one["arms"]:
        arms = one["arms"][arm], two["arms"][arm]
        assert all(run["finished"] for content in arms for run in content["runs"])
        scores, again = (content["parts"]["test"]["images"]["scores"] for content in arms)
        assert scores["accuracy"] == again["accuracy"]
        assert scores["auc"]["values"] == pytest.approx(again["auc"]["values"], abs=1e-5)


@pytest.mark.fault("SIGTERM to one of several; goes on with another number of devices")
def test_a_signal_to_one_stops_all_and_another_number_of_processes_goes_on(
    tmp_path, phantoms, alone
):
    arguments = flags(phantoms, tmp_path / "run")
    ended = run_cluster(arguments, processes=2, devices=1, befalls={1: {"STOP_AT": "4"}})
    for status, output in ended:
        assert status == 143, output
        assert "stopped by SIGTERM after saving step" in output
    [(status, output)] = run_cluster(arguments, processes=1, devices=4)
    assert status == 0, output
    assert "going on from step" in output
    assert_same_run(alone, tmp_path / "run")


@pytest.mark.fault("one of several processes killed")
def test_when_a_process_dies_the_others_end_and_name_it(tmp_path, phantoms):
    befalls = {rank: {"HEARTBEAT_SECONDS": "6"} for rank in range(2)}
    befalls[1]["KILL_AT"] = "3"
    ended = run_cluster(flags(phantoms, tmp_path), 2, 1, befalls, timeout=120)
    assert ended[1].status == -9
    assert ended[0].status not in (0, 2)
    assert "a step failed, as it does when one of the processes dies" in ended[0].output
    # Which of its two messages comes first is a matter of milliseconds.
    named = r"stopped sending heartbeats\):\s*1\s|Task 1 heartbeat timeout"
    assert re.search(named, ended[0].output)


def test_a_bad_setting_is_refused_by_every_process(tmp_path, phantoms):
    arguments = [*flags(phantoms, tmp_path), "--config.batch_size=7"]
    for status, output in run_cluster(arguments, processes=2, devices=1):
        assert status == 2, output
        assert "config.batch_size=7 is not divisible by the 2 devices" in output


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (cluster.Address("node01", 2, 0), r"--coordinator=node01 must be HOST:PORT"),
        (cluster.Address("node01:http", 2, 0), r"--coordinator=node01:http must be HOST:PORT"),
        (cluster.Address("node01:9911", 2, 2), r"--process=2 must be one of 0 to 1"),
    ],
)
def test_an_address_that_cannot_be_one(address, message):
    with pytest.raises(UserError, match=message):
        cluster.connect(address)


@pytest.mark.parametrize(
    ("environment", "manager"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a"}, None),
        ({"SLURM_NTASKS": "8"}, None),  # in a batch script, outside of srun
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a"}, "SLURM"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1;tcp://1:2"}, "Open MPI"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # a notebook
    ],
)
def test_who_started_the_process(monkeypatch, environment, manager):
    monkeypatch.setattr(cluster.os, "environ", environment)
    assert cluster._manager() == manager


def test_a_pod_that_cannot_ask_kubernetes_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(
        cluster.os, "environ", {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
    )
    with pytest.raises(UserError, match=r"install jax\[k8s\], or give --coordinator"):
        cluster.connect()


def test_a_single_process_shares_with_itself():
    assert cluster.share({"a": [1, None]}) == {"a": [1, None]}
    assert cluster.on_first(lambda: 3) == 3
