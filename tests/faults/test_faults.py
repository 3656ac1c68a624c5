"""Each fault a run may meet, in real processes, with what it says."""

import os
import resource
import signal
import subprocess
import threading
import time

import jax
import jobs
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]
_FLAGS = ("--config.total_steps=6", "--config.eval_every=6")


def _run(folder, *flags, **options):
    codes, logs = jobs.finish(jobs.start(folder, *flags, **options), seconds=900)
    return codes[0], logs[0]


def _wait(process, reached, seconds=600):
    deadline = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


_SPOILT = (*_FLAGS, "--config.optimizer.learning_rate=inf")  # after the first step


def test_loss_that_is_not_finite(tmp_path):
    code, log = _run(tmp_path, *_SPOILT)
    assert code == 1 and "is not finite at step 2 (loss=" in log, log
    assert "grad_norm=" in log and "; its images: train_0" in log
    assert "Traceback" not in log
    assert not list((tmp_path / "checkpoints").glob("[2-9]"))  # nothing spoilt is kept


def test_skipped_updates_are_counted(tmp_path):
    code, log = _run(tmp_path, *_SPOILT, "--config.skip_nonfinite=2")
    assert code == 1 and "is not finite at step 4 (loss=" in log, log
    assert "2 updates were skipped before, as config.skip_nonfinite allows" in log
    assert [r["skipped"] for r in jobs.records(tmp_path)] == [0, 1, 2]


def test_full_disk(tmp_path, monkeypatch):
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
        code, log = _run(tmp_path, *_FLAGS)
    assert code == 1, log
    assert "trying again in 1 s" in log and "trying again in 16 s" in log
    assert f"cannot be written to {tmp_path}/checkpoints: " in log
    assert "Free some space or mend the permissions, then run the same command" in log
    code, log = _run(tmp_path, *_FLAGS)  # with space again
    assert code == 0 and jobs.last_step(tmp_path) == 6, log


def test_corrupt_checkpoint(tmp_path, tiny_config, mesh):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ("--config.total_steps=8", "--config.optimizer.schedule=constant")
    code, log = _run(whole, *more)
    assert code == 0, log
    code, log = _run(broken, *_FLAGS, more[1])
    assert code == 0, log
    for path in (broken / "checkpoints" / "6" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, log = _run(broken, *more)
    assert code == 0, log
    assert f"{broken}/checkpoints/6 is broken: " in log
    assert f"{broken}/checkpoints/4 is used instead" in log
    tiny_config.total_steps = 8
    tiny_config.optimizer.schedule = "constant"
    a, _ = jobs.restore(whole, tiny_config, mesh)
    b, _ = jobs.restore(broken, tiny_config, mesh)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    "fault, lost", [("SIGKILL", 0), ("SIGKILL", 1), ("SIGSTOP", 1)]
)
def test_lost_host(tmp_path, fault, lost):
    """The other process stops within a minute; a lone one goes on with the run."""
    one, two, port = tmp_path / "one", tmp_path / "two", jobs.free_port()
    endless = "--config.total_steps=100000", "--config.eval_every=100000"
    endless = (*endless, "--config.optimizer.schedule=constant")
    job = [
        jobs.start(two, *endless, "--config.stuck_after=5", process=(i, 2), port=port)
        for i in range(2)
    ]
    _wait(job[0], lambda: jobs.last_step(two) >= 5)
    job[lost].send_signal(getattr(signal, fault))
    start = time.monotonic()
    other = job[1 - lost]
    log = other.communicate(timeout=120)[0]
    assert other.returncode != 0
    assert time.monotonic() - start < 60, log
    assert "another of the job" in log or "distributed service" in log, log
    print(log[-2000:])

    # From fewer processes: the same images in the same order.
    saved = max(
        int(p.name) for p in (two / "checkpoints").glob("*") if p.name.isdigit()
    )
    total = f"--config.total_steps={saved + 2}"
    flags = (total, "--config.eval_every=100000", endless[2])
    for folder in (one, two):
        code, log = _run(folder, *flags)
        assert code == 0, log
    a, b = ([r["loss"] for r in jobs.records(x) if "loss" in r] for x in (one, two))
    assert len(a) == len(b) == saved + 2
    # Sums over one device and over two differ in the last bits; another image would
    # change the loss at once. tests/input/test_batches.py shows which images they are.
    np.testing.assert_allclose(a, b, rtol=1e-2)


def test_hung_input(tmp_path):
    """A file that never ends, as on a network disk that is gone."""
    from PIL import Image

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
    process = jobs.start(tmp_path / "run", *flags, "--config.stuck_after=3")
    limit = threading.Timer(600, process.kill)
    limit.start()
    log = ""
    for line in process.stdout:
        log += line
        if "watchdog: no batch for" in line:
            break
    limit.cancel()
    assert f"waiting for the input of step 0, which reads camvid train {root}" in log
