"""Two processes of two devices find what one of four finds."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

_TESTS = pathlib.Path(__file__).resolve().parent
_CHILD = """
import json, sys
sys.path[:0] = sys.argv[4:]
index, count, port = map(int, sys.argv[1:4])
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 4 // count)
if count > 1:
    jax.distributed.initialize(f"localhost:{port}", count, index)
import test_evaluate, tiny
from eseg_jax import sharding
config = tiny.get_config()
config.eval.boundary = (2,)
found = test_evaluate._evaluate(config, 4)
parts = sharding.sum_over_processes(np.array([1 / 3, index]))
summary = found.summary(list("abcdefghijklmnopqrs"))
print("FOUND " + json.dumps([found.confusion.tolist(), found.scores, summary]))
print("SUM " + json.dumps(parts.tolist()))
"""


def _start(index, count, port):
    paths = [str(_TESTS), str(_TESTS.parent)]
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(index), str(count), str(port), *paths],
        env=dict(os.environ, JAX_PLATFORMS="cpu"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(*children):
    try:
        logs = [child.communicate(timeout=480)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    said = []
    for log in logs:
        lines = dict(line.split(" ", 1) for line in log.splitlines() if " " in line)
        assert "FOUND" in lines, log
        said.append((json.loads(lines["FOUND"]), json.loads(lines["SUM"])))
    return said


@pytest.mark.slow
@pytest.mark.multiprocess
def test_counts_and_scores_do_not_depend_on_the_processes():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    ((alone, _),) = _finish(_start(0, 1, port))
    pair = _finish(_start(0, 2, port), _start(1, 2, port))
    # float64 all the way: float32 has no 2 / 3 of these digits.
    assert [found for found, _ in pair] == [alone, alone]
    assert [total for _, total in pair] == [[2 / 3, 1.0]] * 2
