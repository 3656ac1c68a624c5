"""What a run leaves behind for people: metrics, curves, pictures, timings.

Files in the workdir (a local folder or any bucket that `etils.epath` opens):

    config.json            the config and its provenance, written at the start
    metrics.jsonl          one line a log step; no clock in it, so that a resumed run
                           leaves the same bytes as an unbroken one
    timing.jsonl           wall-clock of every log interval, split by activity
    timing.json            its sums, written at the end
    confusion_<split>.csv  the latest confusion matrix, rows are the truth
    scores_<split>.csv     mIoU and pixel accuracy of every image, latest evaluation
    images/                <step>_<name>.png: input, truth, prediction, error
    flow/                  <step>_<name>.png: SFNet's flow and what it does, see
                           `report/flow.py`
    worst/                 <rank>_<name>.png, as in images/, of the lowest mIoU
    events.out.tfevents.*  the same scalars for TensorBoard
    report.html            everything above on one page (see `report/page.py`)
"""

import contextlib
import functools
import json
import time
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from eseg_jax.report import page
from eseg_jax.report.events import Events
from eseg_jax.report.files import (
    JsonLines,
    file_name,
    plain,
    read_table,
    write_scores,
    write_table,
    write_text,
)
from eseg_jax.report.gallery import Gallery
from eseg_jax.report.progress import Progress, say
from eseg_jax.report.stopwatch import SECTIONS, Lap, Stopwatch
from eseg_jax.report.watchdog import Watchdog


class WorkdirError(OSError):
    """The workdir cannot be written."""


def _never_fatal(method):
    """A file that cannot be written is a warning; the training is worth more."""

    @functools.wraps(method)
    def forgiving(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            say(f"warning: {error}; the run goes on without this file")

    return forgiving


class Reporter:
    """Writes a run's files; only process 0 does, the others only watch their stages.

    A start stops when the workdir cannot be written; after that nothing here does.
    """

    def __init__(
        self,
        workdir,
        *,
        config: dict,
        class_names: Sequence[str],
        colours: np.ndarray,
        total_steps: int,
        batch_size: int,
        num_chips: int,
        active: bool,
        header: dict,
    ):
        """Opens the workdir and writes `config.json`.

        Args:
          workdir: local folder or bucket path; made when missing.
          config: the run's config, JSON-able.
          class_names, colours: c names and uint8 `[c, 3]`.
          total_steps: steps of the whole run.
          batch_size: global batch size, images.
          num_chips: accelerator chips of the whole run.
          active: whether this process writes.
          header: provenance (versions, device kind, revision, parameter table …),
            merged into `config.json` and shown in the report.

        Raises:
          WorkdirError: the workdir cannot be made or written.
          ValueError: a file of an earlier start cannot be read.
        """
        self._active = active
        data = config.get("dataset", {})
        self.watchdog = Watchdog(
            config.get("stuck_after", 0),
            "{} {} {}".format(*map(data.get, ("name", "train_split", "root"))).strip(),
        )
        if not active:
            return
        self._workdir = epath.Path(workdir)
        self._config, self._header = plain(config), plain(header)
        self._class_names, self._colours = list(class_names), np.asarray(colours)
        self._total_steps, self._batch_size = total_steps, batch_size
        self._num_chips = num_chips
        text = json.dumps({"config": self._config, **self._header}, indent=2)
        try:
            self._workdir.mkdir(parents=True, exist_ok=True)
            write_text(self._workdir / "config.json", text)
            self._events = Events(self._workdir)
        except Exception as error:  # buckets raise their client library's own types
            cause = error.__cause__ or error
            reason = getattr(cause, "strerror", None) or cause
            raise WorkdirError(
                f"cannot write to the workdir {workdir}: {reason}; give --workdir a "
                "folder or bucket that exists or can be made, and that you may write to"
            ) from error
        self._metrics = JsonLines(self._workdir / "metrics.jsonl")
        self._timing = JsonLines(self._workdir / "timing.jsonl")
        self._confusions: dict[str, tuple[int, np.ndarray]] = {}
        self._gallery = Gallery(self._workdir, self._colours, self._class_names)
        self._start_clock(0)

    def _start_clock(self, step: int) -> None:
        self._stopwatch = Stopwatch()
        self._lap = Lap(self._stopwatch, step, self._batch_size)
        self._progress = Progress(
            self._stopwatch, step, self._total_steps, self._batch_size, self._num_chips
        )

    def resume(self, step: int, metrics_position: int) -> None:
        """Forgets what was reported after the checkpoint of `step`; starts the clock.

        Args:
          step: the checkpoint's step; 0 for a new run.
          metrics_position: `position` when the checkpoint was made; 0 for a new run.
        """
        if not self._active:
            return
        missing = metrics_position - len(self._metrics.file.data)
        if missing > 0:
            say(
                f"warning: {self._workdir / 'metrics.jsonl'} lacks the last {missing} "
                f"bytes that the checkpoint of step {step} knows of; its curves will "
                "have a gap"
            )
        self._metrics.keep(metrics_position)
        self._timing.keep_until(step)
        self._events.restart(step)
        for path in self._workdir.glob("confusion_*.csv"):
            saved_at, names, matrix = read_table(path)
            if saved_at <= step and names == self._class_names:
                tags = path.name.removeprefix("confusion_").removesuffix(".csv")
                self._confusions[tags] = (saved_at, matrix)
        self._gallery.load(step)
        self._start_clock(step)

    @property
    def position(self) -> int:
        """Bytes of `metrics.jsonl`, all of them stored; 0 where nothing is written."""
        if not self._active:
            return 0
        self._metrics.file.flush(force=True)
        return len(self._metrics.file.data)

    @_never_fatal
    def log_train(self, step: int, scalars: dict[str, float]) -> None:
        """Logs a training step's scalars; "loss" must be among them."""
        if not self._active:
            return
        scalars = {k: float(v) for k, v in scalars.items()}
        self._progress.loss = scalars["loss"]
        scalars = plain(scalars)
        self._metrics.append({"step": int(step), "split": "train", **scalars})
        self._events.scalars(step, {f"train/{k}": v for k, v in scalars.items()})
        self._log_time(step)

    @_never_fatal
    def log_eval(
        self, step: int, split: str, summary: dict, confusion, scores=()
    ) -> None:
        """Logs an evaluation and rewrites the report.

        Args:
          step: of the weights that were evaluated.
          split: its name, e.g. "val".
          summary: as `metrics.summarize` returns, and what else names the evaluation:
            "weights": "ema", scales, …
          confusion: int64 `[c, c]`, rows are the truth; None of a classification.
          scores: (id, mIoU, pixel accuracy) of each image.
        """
        if not self._active:
            return
        record = {"step": int(step), "split": split, **plain(summary)}
        self._metrics.append(record)
        series = page.series_name(record)
        tags = file_name(series)
        numbers = {k: v for k, v in record.items() if isinstance(v, float)}
        scalars = {f"{tags}/{k}": v for k, v in numbers.items()}
        scalars |= {f"{tags}_iou/{k}": v for k, v in record.get("iou", {}).items()}
        self._events.scalars(step, scalars)
        if confusion is not None:
            self._confusions[tags] = (step, np.asarray(confusion))
            path = self._workdir / f"confusion_{tags}.csv"
            write_table(path, step, self._class_names, self._confusions[tags][1])
        if scores:
            write_scores(self._workdir / f"scores_{tags}.csv", step, scores)
        self._log_time(step)
        shown = ", ".join(f"{k} {v:.4f}" for k, v in numbers.items())
        say(f"step {step}  {series}: {shown}")
        with self.section("evaluation"):
            self._write_report(step)

    @_never_fatal
    def log_images(self, step: int, examples: Sequence[dict]) -> None:
        """Writes a panel of each image and rewrites the report.

        Args:
          step: of the weights that predicted.
          examples: dicts of "id", made safe for file names, "image" uint8 `[h, w, 3]`,
            RGB, "label" and "prediction" uint8 `[h, w]` of train ids; and "views" of
            the networks that have flows, see `report.flow.sheet`.
        """
        if not self._active:
            return
        with self.section("evaluation"):
            for example in examples:
                self._gallery.add(step, example)
            self._write_report(step)

    @_never_fatal
    def log_worst(self, step: int, worst: Sequence[dict]) -> None:
        """Replaces the panels of the worst images; see `gallery.write_worst`."""
        if not self._active:
            return
        with self.section("evaluation"):
            self._gallery.replace_worst(step, worst)
            self._write_report(step)

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        """The block's wall time is `name`'s, one of `SECTIONS`; it is watched, too."""
        if name not in SECTIONS:
            raise ValueError(f"no time section {name!r}; there are {SECTIONS}")
        timed = self._stopwatch.section(name) if self._active else None
        with self.watchdog.stage(name), timed or contextlib.nullcontext():
            yield

    def progress(self, step: int) -> None:
        """Shows one line on stderr; call it every step, most calls do nothing."""
        self.watchdog.step = step
        if self._active:
            self._progress.update(step)

    @_never_fatal
    def finish(self, step: int) -> None:
        """Writes `timing.json` and the last report; everything is stored after it."""
        if not self._active:
            return
        self._progress.close(step)
        self._log_time(step)
        for file in (self._metrics.file, self._timing.file, self._events.file):
            file.flush(force=True)
        totals = page.time_totals(self._timing.records)
        summary = {
            "step": int(step),
            "finished": step >= self._total_steps,  # launch/ starts others again
            "total_seconds": sum(totals.values()),
            "seconds": totals,
        }
        text = json.dumps(summary, indent=2)
        write_text(self._workdir / "timing.json", text)
        self._write_report(step)

    # ------------------------------------------------ parts of the above

    def _log_time(self, step: int) -> None:
        split, images, rate = self._lap(step)
        seconds = {k: round(v, 4) for k, v in split.items()}
        record = {"step": int(step), "time": round(time.time(), 3), "seconds": seconds}
        record |= {"images": images, "images_per_second": rate and round(rate, 3)}
        self._timing.append(record)
        if rate:
            share = split["input"] / sum(split.values())
            values = {"time/images_per_second": rate, "time/input_share": share}
            self._events.scalars(step, values)

    def _write_report(self, step: int) -> None:
        main = page.main_series(self._metrics.records)
        run = page.Run(
            config=self._config,
            header=self._header,
            class_names=self._class_names,
            colours=self._colours,
            step=step,
            total_steps=self._total_steps,
            batch_size=self._batch_size,
            num_chips=self._num_chips,
            records=self._metrics.records,
            timing=self._timing.records,
            confusion=self._confusions.get(file_name(main)) if main else None,
            pictures=self._gallery.pictures,
            film=self._gallery.film,
            worst=self._gallery.worst,
            flows=self._gallery.flows,
        )
        write_text(self._workdir / "report.html", page.page(run))
