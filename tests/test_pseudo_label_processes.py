"""Pseudo-labels by real processes, killed and started again by the same command."""

import json
import random
import time

import jobs
import numpy as np
import pytest
from PIL import Image

from eseg_jax.input import pseudo

_IMAGES = 60
# A constant schedule: the program of the other tests that start processes.
_TRAIN = ("--config.total_steps=2", "--config.optimizer.schedule=constant")


@pytest.fixture(autouse=True)
def _no_process_left():
    yield
    jobs.end_all()


@pytest.fixture(scope="module")
def job(tmp_path_factory, cache):
    """start(folder, count) labels images by a trained run; and a folder for results."""
    root = tmp_path_factory.mktemp("job")
    run, images = root / "run", root / "images"
    _finish(jobs.start(run, *_TRAIN, cache=cache, fork=True))
    images.mkdir()
    for k in range(_IMAGES):
        noise = np.random.default_rng(k).integers(0, 256, (120, 160 - k % 2, 3))
        Image.fromarray(noise.astype(np.uint8)).save(images / f"{k:03d}.png")

    def start(out, count=1):
        port = jobs.free_port() if count > 1 else None
        return [
            jobs.start(
                run,
                "--mode=pseudo_label",
                f"--config.pseudo.images={images}",
                f"--config.pseudo.output={out}",
                "--config.pseudo.threshold=0.056",
                "--config.pseudo.scales=(1.0,)",
                cache=cache,
                process=(i, count),
                port=port,
                fork=True,
            )
            for i in range(count)
        ]

    return start, root


def _finish(*processes):
    codes, logs = jobs.finish(*processes, seconds=900)
    assert not any(codes), "\n----\n".join(logs)


def _files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _assert_whole(folder):
    """No file has its final name before it is complete."""
    for path in folder.rglob("*.png"):
        if not path.name.startswith("."):
            with Image.open(path) as opened:
                opened.load()


@pytest.mark.slow
@pytest.mark.multiprocess
def test_kill_9_anywhere_leaves_no_trace_in_the_end(job):
    start, root = job
    whole = root / "whole"
    _finish(*start(whole))
    assert 0 < json.loads((whole / "pseudo.json").read_text())["coverage"] < 1
    chance = random.Random(0)
    for count in (1, 2):
        out = root / f"killed{count}"
        for moment in range(5):
            processes = start(out, count)
            # After so many more images than the last time.
            wanted = (moment + chance.random()) * _IMAGES / 5
            deadline = time.monotonic() + 900
            while len(list((out / "labels").glob("[0-9]*.png"))) < wanted:
                assert time.monotonic() < deadline
                if any(process.poll() is not None for process in processes):
                    break
                time.sleep(0.01)
            for process in processes:
                process.kill()
            for process in processes:
                process.communicate()
            _assert_whole(out)
            done = len(list((out / "labels").glob("[0-9]*.png")))
            print(f"{count} process(es) killed after {done} images", flush=True)
        _finish(*start(out, count))
        assert _files(out) == _files(whole)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_student_learns_from_them_and_is_the_next_teacher(job, cache):
    start, root = job
    out = root / "round1"
    _finish(*start(out))

    def run(workdir, *flags):
        return jobs.start(workdir, *flags, cache=cache, fork=True)

    student = root / "student"
    _finish(run(student, *_TRAIN, f"--config.dataset.pseudo={out}"))
    flags = ("--config.pseudo.split=val", "--config.pseudo.scales=(1.0,)")
    _finish(run(student, "--mode=pseudo_label", *flags))
    meta = pseudo.read_meta(student / "pseudo" / "val")
    splits = [seen.get("split") for seen in meta["trained_on"]]
    assert splits == ["train", "train", None]
    # Labels of the validation split must not teach who is measured on it.
    flags = (*_TRAIN, f"--config.dataset.pseudo={student}/pseudo/val")
    codes, logs = jobs.finish(run(root / "next", *flags), seconds=900)
    assert codes == [1] and "is to be measured on scenes 'val'" in logs[0]
