"""Real processes, killed and started again by the same command."""

import signal
import time

import jax
import jobs
import numpy as np
import pytest

# Long enough that each moment can be met, short enough for a test.
_FLAGS = (
    "--config.total_steps=12",
    "--config.eval_every=6",
    "--config.checkpoint_every=3",
    "--config.dataset.eval_images=200",
)


# What a folder looks like while the run is …
_MOMENTS = {
    "in a step": lambda folder: jobs.last_step(folder) in (4, 5),
    "in a checkpoint": lambda folder: any(
        "tmp" in path.name for path in (folder / "checkpoints").glob("[369]*")
    ),
    "in an evaluation": lambda folder: (
        jobs.last_step(folder) == 6 and jobs.records(folder)[-1]["split"] == "train"
    ),
}


@pytest.mark.multiprocess
def test_kill_9_and_the_same_command_equal_an_unbroken_run(tiny_config, tmp_path, mesh):
    cache = tmp_path / "cache"

    def run(folder):
        return jobs.start(folder, *_FLAGS, cache=cache)

    whole = tmp_path / "whole"
    codes, logs = jobs.finish(run(whole))
    assert codes == [0], logs

    killed = tmp_path / "killed"
    for moment, reached in _MOMENTS.items():
        process = run(killed)
        deadline = time.monotonic() + 240
        while not reached(killed) and process.poll() is None:
            assert time.monotonic() < deadline, f"never {moment}"
            time.sleep(0.002)
        assert process.poll() is None, f"ended before it was {moment}"
        process.kill()
        process.communicate()
    codes, logs = jobs.finish(run(killed))
    assert codes == [0], logs

    tiny_config.total_steps = 12
    a, meta_a = jobs.restore(whole, tiny_config, mesh)
    b, meta_b = jobs.restore(killed, tiny_config, mesh)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    assert meta_a["metrics_position"] == meta_b["metrics_position"]
    assert (whole / "metrics.jsonl").read_bytes() == (
        killed / "metrics.jsonl"
    ).read_bytes()


@pytest.mark.multiprocess
@pytest.mark.parametrize("distributed", [False, True])
def test_sigterm_saves_and_leaves_with_0(tmp_path, distributed):
    job = {"process": (0, 1), "port": jobs.free_port()} if distributed else {}
    process = jobs.start(
        tmp_path,
        "--config.total_steps=100000",
        "--config.eval_every=100000",
        "--config.checkpoint_every=100000",
        **job,
    )
    deadline = time.monotonic() + 240
    while jobs.last_step(tmp_path) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    codes, logs = jobs.finish(process)
    assert codes == [0], logs
    (saved,) = [path.name for path in (tmp_path / "checkpoints").glob("[0-9]*")]
    assert int(saved) == jobs.last_step(tmp_path)


@pytest.mark.multiprocess
def test_two_processes_of_two_devices_equal_one_device(tiny_config, tmp_path, mesh):
    flags = ("--config.total_steps=3", "--config.eval_every=3")
    one = tmp_path / "one"
    codes, logs = jobs.finish(jobs.start(one, *flags))
    assert codes == [0], logs
    two, port = tmp_path / "two", jobs.free_port()
    codes, logs = jobs.finish(
        *(
            jobs.start(two, *flags, devices=2, process=(i, 2), port=port)
            for i in range(2)
        )
    )
    assert codes == [0, 0], logs
    for a, b in zip(jobs.records(one), jobs.records(two), strict=True):
        assert a["step"] == b["step"] and a["split"] == b["split"]
        if a["split"] == "train":
            np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
        else:
            np.testing.assert_allclose(a["miou"], b["miou"], atol=1e-3)
    a, _ = jobs.restore(one, tiny_config, mesh)
    b, _ = jobs.restore(two, tiny_config, mesh)
    for x, y in zip(
        jax.tree.leaves((a.batch_stats, a.ema_batch_stats)),
        jax.tree.leaves((b.batch_stats, b.ema_batch_stats)),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
