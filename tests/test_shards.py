"""Which share of the work is this process's."""

import pytest

from jaxbusi.errors import UserError
from jaxbusi.shards import Shard, find_shard, parse


def test_a_share_is_read():
    assert parse("0/1") == Shard(0, 1)
    assert parse("2/3") == Shard(2, 3)


@pytest.mark.parametrize("text", ["3/3", "0/0", "-1/2", "1", "1/2/3", "a/b", "1/2 ", "", "٠/1"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UserError, match="is no share; write i/n"):
        parse(text)


def array(task, first=0, step=1, count=4):
    names = {"ID": task, "MIN": first, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}


def process(number, count):
    return {"SLURM_STEP_NODELIST": "a", "SLURM_PROCID": f"{number}", "SLURM_NTASKS": f"{count}"}


@pytest.mark.parametrize(
    ("wanted", "environment", "share"),
    [
        (None, {}, Shard(0, 1)),
        (None, process(1, 3), Shard(1, 3)),
        (None, {"SLURM_NTASKS": "3", "SLURM_PROCID": "0"}, Shard(0, 1)),  # in a batch script
        (None, array(2), Shard(2, 4)),
        (None, array(7, first=1, step=3), Shard(2, 4)),
        (None, array(3) | process(1, 2), Shard(7, 8)),
        (Shard(0, 2), array(3) | process(1, 2), Shard(0, 2)),
        (None, {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, Shard(3, 4)),
    ],
)
def test_where_a_share_comes_from(wanted, environment, share):
    assert find_shard(wanted, environment) == share


def test_all_tasks_and_processes_together_take_each_share_once():
    shares = [
        find_shard(None, array(task, first=1) | process(number, 3))
        for task in (1, 2, 3, 4)
        for number in range(3)
    ]
    assert sorted(share.index for share in shares) == list(range(12))
    assert {share.count for share in shares} == {12}


@pytest.mark.parametrize("environment", [array(9), array(2, step=3), array("x")])
def test_an_uneven_array_is_refused(environment):
    with pytest.raises(UserError, match="not evenly spaced; give --shard=i/n"):
        find_shard(None, environment)
