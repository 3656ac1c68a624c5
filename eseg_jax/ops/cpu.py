"""Marks for XLA's CPU compiler; where XLA does not know them they do nothing."""

import functools
from collections.abc import Callable

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def apart(function: Callable) -> Callable:
    """The function of arrays with its arguments computed before it, whole.

    XLA fuses what computes an argument into each use of it: nine taps of a window
    then compute the activation before them nine times.
    """
    return _marked(function, inlineable="false")


def one_function(function: Callable) -> Callable:
    """The function of arrays as one piece of machine code, with its loops.

    XLA starts a task for each operation of each trip of a loop otherwise, which takes
    longer than the operations if they are small.
    """
    return _marked(function, inlineable="false", xla_cpu_small_call="true")


def _marked(function, **marks):
    compiled = jax.jit(function)

    @functools.wraps(function)
    def call(*arrays):
        with set_xla_metadata(**marks):
            return compiled(*arrays)

    return call
