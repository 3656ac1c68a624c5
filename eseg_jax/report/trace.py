"""A trace of a few training steps for xprof: --config.profile=10:20."""

import jax


class Trace:
    """Writes workdir/plugins/profile/, where TensorBoard and xprof look for it."""

    def __init__(self, steps: str, workdir):
        """`steps` is "first:end", the end not included, or "" for no trace."""
        self._first, self._end = map(int, steps.split(":")) if steps else (-1, -1)
        self._workdir, self._running = workdir, False

    def at(self, step: int, scalars) -> None:
        """Call it before each step; `scalars` are those of the step before."""
        if step == self._first:
            jax.profiler.start_trace(self._workdir)
            self._running = True
        elif step == self._end and self._running:
            jax.block_until_ready(scalars)
            jax.profiler.stop_trace()
            self._running = False
