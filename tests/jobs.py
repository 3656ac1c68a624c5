"""Starts real processes of the command line and gives each a hard time limit."""

import atexit
import functools
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

import jax

from eseg_jax import checkpoint, evaluate, optimizer, sharding, state

_TESTS = pathlib.Path(__file__).resolve().parent
_READ_AT_IMPORT = (
    "JAX_NUM_CPU_DEVICES",
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
)
_started = []


def start(workdir, *flags, devices=1, process=None, port=None, cache=None, fork=False):
    """Starts one process of the run of tests/tiny.py; `stdout` pipes its output.

    With `fork` it is a copy of a process that has imported everything, which saves most
    of the time of a short run; it has no `stdout`, but `log` reads its output so far.
    """
    env = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
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
    flags = [f"--config={_TESTS / 'tiny.py'}", *flags, f"--workdir={workdir}"]
    if fork:
        process = Forked(flags, env)
    else:
        process = subprocess.Popen(
            [sys.executable, "-m", "eseg_jax.main", *flags],
            cwd=_TESTS.parent,
            env=os.environ | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    _started.append(process)
    return process


class Forked:
    """The part of subprocess.Popen that the tests use, over a fork server."""

    def __init__(self, flags, env):
        self._log = tempfile.NamedTemporaryFile(prefix="forked_", suffix=".log")
        self._process = _fork_server().Process(
            target=_forked_main, args=(flags, env, self._log.name)
        )
        self._process.start()

    def poll(self):
        return self._process.exitcode

    returncode = property(poll)

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def log(self):
        return pathlib.Path(self._log.name).read_text()

    def communicate(self, timeout=None):
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.log(), None


@functools.cache
def _fork_server():
    context = multiprocessing.get_context("forkserver")
    rooms = ("main", "train", "evaluate", "pseudo_label", "input.pipeline")
    context.set_forkserver_preload([f"eseg_jax.{room}" for room in rooms])
    path = os.environ.get("PYTHONPATH", "")
    # JAX warns of every fork; what is copied here has not yet used a device.
    os.environ |= {"PYTHONPATH": str(_TESTS.parent), "PYTHONWARNINGS": "ignore"}
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ["PYTHONPATH"] = path
        del os.environ["PYTHONWARNINGS"]
    return context


def _forked_main(flags, env, log):
    os.chdir(_TESTS.parent)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= env
    for name in _READ_AT_IMPORT:  # JAX has done that already
        if name in env:
            jax.config.update(name.lower(), int(env[name]))
    sys.argv = ["eseg_jax.main", *flags]
    from eseg_jax import main

    try:
        main.run()
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()  # as Python does at its end; a fork skips them


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
            if process.poll() is None:
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
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


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
