"""Where a run's wall time goes."""

import contextlib
import time
from collections.abc import Iterator

SECTIONS = ("compile", "step", "input", "evaluation", "checkpoint")
OTHER = "other"


class Stopwatch:
    """Splits wall time between sections; what no section claims is "other"."""

    def __init__(self):
        self.spent = dict.fromkeys((*SECTIONS, OTHER), 0.0)
        self._current = OTHER
        self._mark = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Seconds by section so far; they sum to the wall time since the start."""
        now = time.perf_counter()
        self.spent[self._current] += now - self._mark
        self._mark = now
        return dict(self.spent)

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Claims the time of a block; a section inside it claims its own part."""
        self.read()
        outer, self._current = self._current, name
        try:
            yield
        finally:
            self.read()
            self._current = outer


class Lap:
    """Time split and throughput since the previous call."""

    def __init__(self, stopwatch: Stopwatch, step: int, batch_size: int):
        self._stopwatch, self._batch_size = stopwatch, batch_size
        self._step, self._spent = step, stopwatch.read()

    def __call__(self, step: int) -> tuple[dict[str, float], int, float | None]:
        """Returns seconds by section, images, and images per second of training.

        Compiling, evaluating and saving do not count against the rate, which is None
        when there was no training step.
        """
        spent = self._stopwatch.read()
        split = {k: v - self._spent[k] for k, v in spent.items()}
        images = (step - self._step) * self._batch_size
        self._step, self._spent = step, spent
        training = split["step"] + split["input"] + split[OTHER]
        return split, images, images / training if images and training else None
