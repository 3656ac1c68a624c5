"""What is said on stderr: sentences, and one line about how far the work is."""

import shutil
import sys
import time
from collections.abc import Iterable, Iterator

from eseg_jax.report.page import duration
from eseg_jax.report.stopwatch import Lap, Stopwatch

_TTY_SECONDS, _LOG_SECONDS = 0.25, 10.0


def say(text: str) -> None:
    """Prints a line, in place of the progress line on a terminal."""
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(clear + text, file=sys.stderr, flush=True)


class Progress:
    """Step, loss, images per second and the time left; redrawn on a terminal.

    Attributes:
      loss: the latest, once there is one.
    """

    def __init__(
        self,
        stopwatch: Stopwatch,
        first_step: int,
        total_steps: int,
        batch_size: int,
        num_chips: int,
    ):
        self.loss: float | None = None
        self._stopwatch = stopwatch
        self._lap = Lap(stopwatch, first_step, batch_size)
        self._first_step, self._total_steps = first_step, total_steps
        self._num_chips = num_chips
        self._drawn_at = time.perf_counter()

    def update(self, step: int) -> None:
        """Draws the line when it is time: often on a terminal, rarely into a log."""
        pause = _TTY_SECONDS if sys.stderr.isatty() else _LOG_SECONDS
        if time.perf_counter() - self._drawn_at >= pause:
            self._draw(step)

    def close(self, step: int) -> None:
        """Draws the last line and leaves it."""
        self._draw(step)
        if sys.stderr.isatty():
            print(file=sys.stderr)

    def _draw(self, step: int) -> None:
        split, _, rate = self._lap(step)
        self._drawn_at = time.perf_counter()
        line = self._line(step, split, rate)
        if sys.stderr.isatty():
            columns = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:columns]}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            say(line)

    def _line(self, step: int, split: dict[str, float], rate: float | None) -> str:
        total, spent = self._total_steps, self._stopwatch.read()
        elapsed = sum(spent.values())
        done = step / total if total else 1.0
        bar = "#" * round(20 * done)
        parts = [f"{step:>{len(str(total))}}/{total} [{bar:<20}] {done:4.0%}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if rate:
            chip = (
                f" ({rate / self._num_chips:.1f}/chip)" if self._num_chips > 1 else ""
            )
            parts.append(f"{rate:.1f} images/s{chip}")
            parts.append(f"input {split['input'] / sum(split.values()):.0%}")
        parts.append(f"elapsed {duration(elapsed)}")
        if step > self._first_step:
            pace = (elapsed - spent["compile"]) / (step - self._first_step)
            parts.append(f"ETA {duration(pace * (total - step))}")
        return "  ".join(parts)


def progress(items: Iterable, total: int | None, what: str) -> Iterator:
    """Passes the items on and reports on stderr how many, how fast and until when."""
    terminal = sys.stderr.isatty()
    every = 0.5 if terminal else 30.0
    start = last = time.monotonic()
    done = shown = 0

    def show(end: str) -> None:
        rate = done / max(now - start, 1e-9)
        line = f"{what}: {done}{f'/{total}' if total else ''}, {rate:.3g}/s"
        if total:
            minutes, seconds = divmod(round(max(total - done, 0) / rate), 60)
            line += f", {minutes}:{seconds:02} left"
        line = f"\r\033[K{line}" if terminal else line
        print(line, end=end, file=sys.stderr, flush=True)

    for item in items:
        yield item
        done, now = done + 1, time.monotonic()
        if now - last > every:
            show("" if terminal else "\n")
            last, shown = now, done
    # The last line, where there was any before or the work took a while.
    now = time.monotonic()
    if done and (shown or now - start > every):
        show("\n")
