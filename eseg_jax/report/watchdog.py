"""Says which stage a run is stuck in, from a thread of its own."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

_logger = logging.getLogger(__name__)

_WAITS = {
    "input": "no batch for {seconds:.0f} s: waiting for the input of step {step}, "
    "which reads {source}; is that disk, bucket or host slow or gone?",
    "step": "no step for {seconds:.0f} s: waiting for the devices at step {step}; is "
    "another process of the job slow or gone?",
    "compile": "compiling for {seconds:.0f} s so far",
    "evaluation": "evaluating step {step} for {seconds:.0f} s so far",
    "checkpoint": "no checkpoint for {seconds:.0f} s: waiting to write that of step "
    "{step}; is the workdir's disk or bucket slow or full?",
    "other": "nothing for {seconds:.0f} s after step {step}: waiting to write the "
    "report; is the workdir's disk or bucket slow or full?",
}


class Watchdog:
    """Warns when a stage has taken `seconds`, then at twice, four times … as long.

    It only speaks: what is slow may yet come, and a lost process is the matter of
    `jax.distributed`.
    """

    def __init__(self, seconds: float, source: str, say=_logger.warning):
        """`seconds` of 0 is off; `source` is what the input reads."""
        self.step = 0
        self._source, self._say, self._seconds = source, say, seconds
        self._stage, self._since, self._next = "other", time.monotonic(), seconds
        self._closed = threading.Event()
        if seconds:
            threading.Thread(target=self._watch, daemon=True).start()

    def _enter(self, stage: str) -> None:
        self._stage, self._since = stage, time.monotonic()
        self._next = self._seconds

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The block is stage `name`; after it the outer stage starts anew."""
        outer = self._stage
        self._enter(name)
        try:
            yield
        finally:
            self._enter(outer)

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            stage, waited = self._stage, time.monotonic() - self._since
            if waited < self._next:
                continue
            self._next *= 2
            sentence = _WAITS[stage].format(
                seconds=waited, step=self.step, source=self._source
            )
            self._say("watchdog: %s", sentence)

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()
