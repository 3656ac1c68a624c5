"""A trace of some steps lands where xprof looks for it."""

import subprocess
import sys

from eseg_jax.report import trace

_TRACE = """
import sys
import jax.numpy as jnp
from eseg_jax.report import trace

profile = trace.Trace("1:3", sys.argv[1])
for step in range(5):
    profile.at(step, {"loss": jnp.float32(step) + 1})
"""


def test_steps_asked_for_are_traced(tmp_path):
    # In a process of its own: where libtpu has compiled without a TPU, the profiler
    # looks for the TPU and crashes.
    done = subprocess.run(
        [sys.executable, "-c", _TRACE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))) == 1


def test_no_trace_unless_asked_for(tmp_path):
    profile = trace.Trace("", str(tmp_path))
    for step in range(3):
        profile.at(step, {})
    assert not list(tmp_path.iterdir())
