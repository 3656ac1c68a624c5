"""Starts real processes of the command line and gives each a hard time limit."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax

from eseg_jax import checkpoint, evaluate, optimizer, sharding, state

_TESTS = pathlib.Path(__file__).resolve().parent
_started = []


def start(workdir, *flags, devices=1, process=None, port=None, cache=None):
    """Starts one process of the run of tests/tiny.py; `stdout` pipes its output."""
    env = dict(os.environ, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES=str(devices))
    env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling is most of the work
    if cache is not None:
        env["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    if port is not None:
        index, count = process
        env |= {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }
    command = [sys.executable, "-m", "eseg_jax.main", f"--config={_TESTS / 'tiny.py'}"]
    process = subprocess.Popen(
        [*command, *flags, f"--workdir={workdir}"],
        cwd=_TESTS.parent,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    _started.append(process)
    return process


def end_all():
    """Kills what a test that failed has left behind."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def finish(*processes, seconds=240):
    """Waits for all and returns their exit codes; fails with every log on time-out."""
    logs = []
    try:
        for process in processes:
            logs.append(process.communicate(timeout=seconds)[0])
    except subprocess.TimeoutExpired:
        for process in processes:
            process.kill()
        logs += [process.communicate()[0] for process in processes[len(logs) :]]
        raise AssertionError("timed out:\n" + "\n----\n".join(logs)) from None
    return [process.returncode for process in processes], logs


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def records(folder):
    """The lines of a run's metrics.jsonl that are complete."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def last_step(folder):
    """The last step in metrics.jsonl, 0 for none."""
    return max((r["step"] for r in records(folder)), default=0)


def restore(folder, config, mesh):
    """The state and the notes of a run's latest checkpoint."""
    model = evaluate.create_model(config, 19)
    tx = optimizer.make_optimizer(config.optimizer, config.total_steps)
    shapes = jax.eval_shape(lambda: state.init_state(model, tx, jax.random.key(0)))
    manager = checkpoint.open_manager(folder, config.keep_checkpoints)
    restored, meta = checkpoint.restore(manager, shapes, sharding.replicated(mesh))
    manager.close()
    return restored, meta
