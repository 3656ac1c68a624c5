"""Each fault a run may meet, in real processes, with what it says."""

import os
import re
import resource
import signal
import subprocess
import time

import jax
import jobs
import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]
# A constant schedule: one compiled program, however long the run.
_CONSTANT = "--config.optimizer.schedule=constant"
_FLAGS = ("--config.total_steps=6", "--config.eval_every=6", _CONSTANT)
_ENDLESS = ("--config.total_steps=100000", "--config.eval_every=100000", _CONSTANT)


def _run(folder, *flags, fork=True, **options):
    process = jobs.start(folder, *flags, fork=fork, **options)
    codes, logs = jobs.finish(process, seconds=900)
    return codes[0], logs[0]


def _wait(process, reached, seconds=900):
    deadline = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, process.log()
        time.sleep(0.05)


def _quote(log, *patterns):
    """Prints the lines that match, for README.md; each pattern must be there."""
    for pattern in patterns:
        lines = [line for line in log.splitlines() if re.search(pattern, line)]
        assert lines, f"no {pattern!r} in:\n{log}"
        print(f"QUOTE {lines[0]}", flush=True)


def _assert_equal(a, b, config, mesh):
    a, _ = jobs.restore(a, config, mesh)
    b, _ = jobs.restore(b, config, mesh)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


_SPOILT = (*_FLAGS, "--config.optimizer.learning_rate=inf")  # after the first step


def test_loss_that_is_not_finite(tmp_path, cache):
    code, log = _run(tmp_path, *_SPOILT, cache=cache)
    assert code == 1 and "Traceback" not in log, log
    _quote(log, r"the loss is not finite at step 2 \(.*loss=nan.*; its images: train_0")
    assert not list((tmp_path / "checkpoints").glob("[2-9]"))  # nothing spoilt is kept


def test_skipped_updates_are_counted(tmp_path, cache):
    flags = (*_SPOILT, "--config.skip_nonfinite=2")
    code, log = _run(tmp_path, *flags, cache=cache)
    assert code == 1, log
    _quote(
        log,
        r"is not finite at step 4 \(.*loss=nan.*2 updates were skipped before, as "
        r"config.skip_nonfinite allows",
    )
    assert [r["skipped"] for r in jobs.records(tmp_path)] == [0, 1, 2]


def test_full_disk(tmp_path, cache, monkeypatch):
    # No file may grow beyond 32 KiB: the array data of a checkpoint does.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    popen = subprocess.Popen

    def limited(*args, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 10, limits[1]))
        try:
            return popen(*args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", limited)
        code, log = _run(tmp_path, *_FLAGS, fork=False)
    assert code == 1, log
    _quote(
        log,
        "trying again in 1 s",
        "trying again in 16 s",
        f"cannot be written to {tmp_path}/checkpoints: .*Free some space or mend the "
        "permissions, then run the same command",
    )
    code, log = _run(tmp_path, *_FLAGS, cache=cache)  # with space again
    assert code == 0 and jobs.last_step(tmp_path) == 6, log


def test_unwritable_workdir(tmp_path, cache):
    (tmp_path / "file").write_text("")
    code, log = _run(tmp_path / "file" / "run", *_FLAGS, cache=cache)
    assert code == 1 and "Traceback" not in log, log
    _quote(log, "The workdir .*/file/run cannot be written .*; choose another")


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_corrupt_checkpoint(tmp_path, tiny_config, mesh, cache, damage):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    longer = (*_FLAGS, "--config.total_steps=8")
    code, log = _run(whole, *longer, cache=cache)
    assert code == 0, log
    code, log = _run(broken, *_FLAGS, cache=cache)
    assert code == 0, log
    folder = broken / "checkpoints" / "6" / "state"
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        data = bytearray(path.read_bytes())
        if damage == "missing":
            path.unlink()
        elif len(data) > 1000 and damage == "cut":
            path.write_bytes(data[: len(data) // 2])
        elif len(data) > 1000:
            data[len(data) // 2] ^= 64
            path.write_bytes(data)
    code, log = _run(broken, *longer, cache=cache)
    assert code == 0, log
    _quote(
        log,
        f"{broken}/checkpoints/6 is broken: ",
        f"{broken}/checkpoints/4 is used instead",
        "Checkpoint 6 was moved to ",
    )
    tiny_config.total_steps = 8
    tiny_config.optimizer.schedule = "constant"
    _assert_equal(whole, broken, tiny_config, mesh)
    assert (whole / "metrics.jsonl").read_bytes() == (
        broken / "metrics.jsonl"
    ).read_bytes()


@pytest.mark.parametrize(
    "fault, lost", [("SIGKILL", 0), ("SIGKILL", 1), ("SIGSTOP", 1)]
)
def test_lost_host(tmp_path, cache, fault, lost):
    """The other process stops within a minute; a lone one goes on with the run."""
    one, two, port = tmp_path / "one", tmp_path / "two", jobs.free_port()
    flags = (*_ENDLESS, "--config.stuck_after=5")
    options = {"port": port, "cache": cache, "fork": True}
    job = [jobs.start(two, *flags, process=(i, 2), **options) for i in range(2)]
    _wait(job[0], lambda: jobs.last_step(two) >= 5)
    job[lost].send_signal(getattr(signal, fault))
    start = time.monotonic()
    other = job[1 - lost]
    log, _ = other.communicate(timeout=120)
    seconds = time.monotonic() - start
    assert other.returncode != 0 and seconds < 60, log
    print(f"QUOTE {fault} of process {lost}: the other stopped after {seconds:.0f} s")
    _quote(log, "another of the job, or|distributed service detected")
    if (fault, lost) != ("SIGKILL", 1):
        return

    # From fewer processes: the same images in the same order.
    saved = max(
        int(p.name) for p in (two / "checkpoints").glob("*") if p.name.isdigit()
    )
    flags = (*_ENDLESS, f"--config.total_steps={saved + 2}")
    for folder in (one, two):
        code, log = _run(folder, *flags, cache=cache)
        assert code == 0, log
    a, b = ([r["loss"] for r in jobs.records(x) if "loss" in r] for x in (one, two))
    assert len(a) == len(b) == saved + 2
    # Sums over one device and over two differ in the last bits; another image would
    # change the loss at once. tests/input/test_batches.py shows which images they are.
    np.testing.assert_allclose(a, b, rtol=1e-2)


def test_hung_input(tmp_path, cache):
    """A file that never ends, as on a network disk that is gone."""
    root = tmp_path / "camvid"
    for split in ("train", "val"):
        lines = []
        for i in range(8):
            image, label = f"{split}/{i}.png", f"{split}annot/{i}.png"
            for name, mode in ((image, "RGB"), (label, "L")):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                Image.new(mode, (64, 64)).save(root / name)
            lines.append(f"/SegNet/CamVid/{image} /SegNet/CamVid/{label}")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (root / "train" / "5.png").unlink()
    os.mkfifo(root / "train" / "5.png")
    flags = ("--config.dataset.name=camvid", f"--config.dataset.root={root}")
    flags = (*flags, "--config.stuck_after=3")
    process = jobs.start(tmp_path / "run", *flags, cache=cache, fork=True)
    stuck = f"no batch for .* which reads camvid train {root}"
    _wait(process, lambda: re.search(stuck, process.log()))
    _quote(process.log(), stuck)
