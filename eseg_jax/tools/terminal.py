"""What several commands show while they work."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator


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
