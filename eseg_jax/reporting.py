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
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from eseg_jax.report import flow, page, panels
from eseg_jax.report.files import (
    GrowingFile,
    JsonLines,
    file_name,
    plain,
    read_table,
    write_bytes,
    write_scores,
    write_table,
    write_text,
)
from eseg_jax.report.watchdog import Watchdog

SECTIONS = ("compile", "step", "input", "evaluation", "checkpoint")
OTHER = "other"
_MAX_TILE_WIDTH = 1024  # wider images are thinned before they become panels
_MAX_FLOW_WIDTH = 512
_FILM_STEPS = 8  # earlier evaluations shown in the report
_FILM_WIDTH = 168
_TTY_SECONDS, _LOG_SECONDS = 0.25, 10.0


class WorkdirError(OSError):
    """The workdir cannot be written."""


# ---------------------------------------------------------------- TensorBoard


class Events:
    """TensorBoard's event file, one for each start of the program."""

    def __init__(self, workdir: epath.Path):
        name = f"{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = GrowingFile(workdir / f"events.out.tfevents.{name}")
        self._writer = RecordWriter(self.file)
        self._add(file_version="brain.Event:2")

    def restart(self, step: int) -> None:
        """Makes TensorBoard drop what an earlier, killed run logged beyond `step`."""
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=step + 1, session_log=start)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        value = [
            summary_pb2.Summary.Value(tag=tag, simple_value=v)
            for tag, v in values.items()
            if v is not None
        ]
        self._add(step=step, summary=summary_pb2.Summary(value=value))

    def _add(self, **fields) -> None:
        event = event_pb2.Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())


# ---------------------------------------------------------------- time


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


# ---------------------------------------------------------------- pictures


def _panel(example: dict, colours, class_names) -> tuple[np.ndarray, tuple[int, int]]:
    """A panel of one image, thinned if it is wide, and the (h, w) of its tiles."""
    maps = (example[name] for name in ("image", "label", "prediction"))
    maps = [panels.thin(np.asarray(m), _MAX_TILE_WIDTH) for m in maps]
    return panels.panel(*maps, colours, class_names), maps[1].shape


def write_worst(folder, step: int, worst, colours, class_names) -> list[page.Worst]:
    """Replaces the panels in a folder by those of the worst images, the worst first.

    Args:
      folder: gets `<rank>_<name>.png`.
      step: of the weights that predicted.
      worst: dicts as for `Reporter.log_images`, with "miou".
      colours, class_names: uint8 `[c, 3]` and c names.
    """
    folder, shown = epath.Path(folder), []
    for path in folder.glob("*.png"):
        path.unlink()
    for rank, example in enumerate(worst, start=1):
        pixels, tile = _panel(example, colours, class_names)
        name = file_name(str(example["id"]))
        notes = {"step": str(step), "miou": repr(float(example["miou"]))}
        png = panels.encode(pixels, tile, **notes)
        write_bytes(folder / f"{rank}_{name}.png", png)
        tiles = panels.cut(pixels, tile)
        shown.append(page.Worst(name, step, float(example["miou"]), tiles))
    return shown


def read_worst(folder) -> list[page.Worst]:
    """What `write_worst` left in a folder, the worst first."""
    found = []
    for path in sorted(
        epath.Path(folder).glob("*_*.png"),
        key=lambda path: int(path.stem.split("_")[0]),
    ):
        png = path.read_bytes()
        notes, name = panels.notes(png), path.stem.split("_", 1)[1]
        step, miou = int(notes["step"]), float(notes["miou"])
        found.append(page.Worst(name, step, miou, panels.decode(png)))
    return found


# ---------------------------------------------------------------- the reporter


def _never_fatal(method):
    """A file that cannot be written is a warning; the training is worth more."""

    @functools.wraps(method)
    def forgiving(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            self._say(f"warning: {error}; the run goes on without this file")

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
        self._pictures: dict[str, tuple[int, dict]] = {}
        self._film: dict[str, dict[int, np.ndarray]] = {}
        self._worst: list[page.Worst] = []
        self._flows: dict[str, tuple[int, np.ndarray]] = {}
        self._loss = None
        self._start_clock(0)

    def _start_clock(self, step: int) -> None:
        self._stopwatch = Stopwatch()
        self._log_lap = Lap(self._stopwatch, step, self._batch_size)
        self._progress_lap = Lap(self._stopwatch, step, self._batch_size)
        self._first_step, self._drawn_at = step, time.perf_counter()

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
            self._say(
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
        self._load_pictures(step)
        self._worst = [w for w in read_worst(self._workdir / "worst") if w.step <= step]
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
        self._loss = scalars["loss"]
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
        self._say(f"step {step}  {series}: {shown}")
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
        folder = self._workdir / "images"
        with self.section("evaluation"):
            for example in examples:
                pixels, tile = _panel(example, self._colours, self._class_names)
                name = file_name(str(example["id"]))
                png = panels.encode(pixels, tile)
                write_bytes(folder / f"{step}_{name}.png", png)
                self._keep_picture(step, name, panels.cut(pixels, tile))
                if example.get("views"):
                    self._log_flow(step, name, example)
            self._write_report(step)

    @_never_fatal
    def log_worst(self, step: int, worst: Sequence[dict]) -> None:
        """Replaces the panels of the worst images; see `write_worst`."""
        if not self._active:
            return
        folder = self._workdir / "worst"
        with self.section("evaluation"):
            self._worst = write_worst(
                folder, step, worst, self._colours, self._class_names
            )
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
        if not self._active:
            return
        pause = _TTY_SECONDS if sys.stderr.isatty() else _LOG_SECONDS
        if time.perf_counter() - self._drawn_at >= pause:
            self._draw(step)

    @_never_fatal
    def finish(self, step: int) -> None:
        """Writes `timing.json` and the last report; everything is stored after it."""
        if not self._active:
            return
        self._draw(step)
        if sys.stderr.isatty():
            print(file=sys.stderr)
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

    def _say(self, text: str) -> None:
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(clear + text, file=sys.stderr, flush=True)

    def _draw(self, step: int) -> None:
        split, _, rate = self._progress_lap(step)
        self._drawn_at = time.perf_counter()
        line = self._progress_line(step, split, rate)
        if sys.stderr.isatty():
            columns = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:columns]}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            self._say(line)

    def _progress_line(self, step: int, split: dict, rate: float | None) -> str:
        total, spent = self._total_steps, self._stopwatch.read()
        elapsed = sum(spent.values())
        done = step / total if total else 1.0
        bar = "#" * round(20 * done)
        parts = [f"{step:>{len(str(total))}}/{total} [{bar:<20}] {done:4.0%}"]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4f}")
        if rate:
            chip = (
                f" ({rate / self._num_chips:.1f}/chip)" if self._num_chips > 1 else ""
            )
            parts.append(f"{rate:.1f} images/s{chip}")
            parts.append(f"input {split['input'] / sum(split.values()):.0%}")
        parts.append(f"elapsed {page.duration(elapsed)}")
        if step > self._first_step:
            pace = (elapsed - spent["compile"]) / (step - self._first_step)
            parts.append(f"ETA {page.duration(pace * (total - step))}")
        return "  ".join(parts)

    def _log_time(self, step: int) -> None:
        split, images, rate = self._log_lap(step)
        seconds = {k: round(v, 4) for k, v in split.items()}
        record = {"step": int(step), "time": round(time.time(), 3), "seconds": seconds}
        record |= {"images": images, "images_per_second": rate and round(rate, 3)}
        self._timing.append(record)
        if rate:
            share = split["input"] / sum(split.values())
            values = {"time/images_per_second": rate, "time/input_share": share}
            self._events.scalars(step, values)

    def _keep_picture(self, step: int, name: str, tiles: dict) -> None:
        self._pictures[name] = (step, tiles)
        film = self._film.setdefault(name, {})
        film[step] = panels.thin(tiles["prediction"], _FILM_WIDTH)

    def _log_flow(self, step: int, name: str, example: dict) -> None:
        image = panels.thin(np.asarray(example["image"]), _MAX_FLOW_WIDTH)
        folder = self._workdir / "flow"
        folder.mkdir(parents=True, exist_ok=True)
        sheet = flow.sheet(image, example["views"])
        panels.write_png(folder / f"{step}_{name}.png", sheet)
        self._flows[name] = (step, sheet)

    def _load_pictures(self, last_step: int) -> None:
        for name, found in self._saved_pictures("images", last_step).items():
            for step, path in page.spread(found, _FILM_STEPS):
                self._keep_picture(step, name, panels.decode(path.read_bytes()))
        for name, found in self._saved_pictures("flow", last_step).items():
            step, path = found[-1]
            self._flows[name] = (step, panels.read_png(path))

    def _saved_pictures(self, folder: str, last_step: int) -> dict[str, list[tuple]]:
        """(step, path) of each name's pictures up to a step, in order."""
        found: dict[str, list[tuple[int, epath.Path]]] = {}
        for path in (self._workdir / folder).glob("*_*.png"):
            step, name = path.stem.split("_", 1)
            if step.isdigit() and int(step) <= last_step:
                found.setdefault(name, []).append((int(step), path))
        return {name: sorted(pictures) for name, pictures in found.items()}

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
            pictures=self._pictures,
            film=self._film,
            worst=self._worst,
            flows=self._flows,
        )
        write_text(self._workdir / "report.html", page.page(run))
