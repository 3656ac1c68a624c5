"""A trace of some steps lands where xprof looks for it."""

import jax.numpy as jnp

from eseg_jax.report import trace


def test_steps_asked_for_are_traced(tmp_path):
    profile = trace.Trace("1:3", str(tmp_path))
    for step in range(5):
        profile.at(step, {"loss": jnp.float32(step) + 1})
        written = list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
        assert len(written) == (step >= 3)


def test_no_trace_unless_asked_for(tmp_path):
    profile = trace.Trace("", str(tmp_path))
    for step in range(3):
        profile.at(step, {})
    assert not list(tmp_path.iterdir())
