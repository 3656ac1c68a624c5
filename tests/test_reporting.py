"""What a run writes, what a resumed run writes, and what it says when it cannot."""

import errno
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath
from PIL import Image

from eseg_jax import reporting
from eseg_jax.report import files

CLASSES = ["road", "sky"]
COLOURS = np.array([[128, 64, 128], [70, 130, 180]], np.uint8)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until told: `clock.now += seconds`."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def reporter(workdir, **changes):
    arguments = {
        "config": {"model": {"name": "eseg_s"}, "dataset": {"name": "camvid"}},
        "class_names": CLASSES,
        "colours": COLOURS,
        "total_steps": 8,
        "batch_size": 4,
        "num_chips": 2,
        "active": True,
        "header": {"revision": "abc123", "versions": {"jax": "0.10.2"}},
    }
    return reporting.Reporter(workdir, **(arguments | changes))


def summary(miou: float) -> dict:
    iou = {"road": miou, "sky": None}
    return {"miou": miou, "iou": iou, "pixel_accuracy": 0.75, "weights": "ema"}


def run_steps(run: reporting.Reporter, first: int, last: int) -> list[int]:
    """Logs each step, evaluates after even ones; returns `position` after each."""
    positions = []
    for step in range(first, last + 1):
        run.log_train(step, {"loss": 1 / step, "learning_rate": 0.1})
        if step % 2 == 0:
            confusion = np.array([[step, 1], [0, 2]])
            run.log_eval(step, "val", summary(1 - 1 / step), confusion)
        positions.append(run.position)
    return positions


def lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------- metrics.jsonl


def test_lines_are_fixed_to_the_byte(tmp_path):
    run = reporter(tmp_path)
    run.resume(0, 0)
    run.log_train(1, {"loss": np.float32(0.1), "grad_norm": float("inf")})
    run.log_eval(1, "val", summary(0.5), np.eye(2, dtype=np.int64))
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 1, "split": "train", "loss": 0.10000000149011612, '
        '"grad_norm": null}\n'
        '{"step": 1, "split": "val", "miou": 0.5, "iou": {"road": 0.5, "sky": null}, '
        '"pixel_accuracy": 0.75, "weights": "ema"}\n'
    )
    assert run.position == (tmp_path / "metrics.jsonl").stat().st_size


def test_resumed_run_leaves_the_bytes_of_an_unbroken_one(tmp_path):
    unbroken = reporter(tmp_path / "a")
    unbroken.resume(0, 0)
    run_steps(unbroken, 1, 8)

    killed = reporter(tmp_path / "b")
    killed.resume(0, 0)
    positions = run_steps(killed, 1, 6)
    metrics = tmp_path / "b" / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"step": 7, "spl')  # killed within a line

    resumed = reporter(tmp_path / "b")
    resumed.resume(3, positions[2])
    assert [r["step"] for r in lines(metrics)] == [1, 2, 2, 3]
    timing = lines(tmp_path / "b" / "timing.jsonl")
    assert [r["step"] for r in timing] == [1, 2, 2, 3]
    run_steps(resumed, 4, 8)
    assert metrics.read_bytes() == (tmp_path / "a" / "metrics.jsonl").read_bytes()

    # The page shows the steps before the kill, too.
    resumed.finish(8)
    page = (tmp_path / "b" / "report.html").read_text()
    assert "val ema, step 2: 50.00" in page and "val ema, step 8: 87.50" in page


def test_run_killed_before_its_first_checkpoint_starts_clean(tmp_path):
    first = reporter(tmp_path)
    first.resume(0, 0)
    run_steps(first, 1, 2)
    again = reporter(tmp_path)
    again.resume(0, 0)
    assert again.position == 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    assert (tmp_path / "timing.jsonl").read_bytes() == b""


def test_lost_metrics_are_named_and_do_not_stop_the_run(tmp_path, capsys):
    run = reporter(tmp_path)
    run.resume(3, 120)
    run.log_train(4, {"loss": 1.0})
    assert "metrics.jsonl lacks the last 120 bytes" in capsys.readouterr().err
    assert [r["step"] for r in lines(tmp_path / "metrics.jsonl")] == [4]


def test_confusion_of_a_later_step_is_forgotten(tmp_path):
    run = reporter(tmp_path)
    run.resume(0, 0)
    run_steps(run, 1, 4)
    text = (tmp_path / "confusion_val-ema.csv").read_text()
    assert text == "step 4,road,sky\nroad,4,1\nsky,0,2\n"
    for step, shown in ((4, True), (3, False)):
        again = reporter(tmp_path)
        again.resume(step, run.position)
        again.finish(step)
        page = (tmp_path / "report.html").read_text()
        assert ("road as sky: 20.00 % (1 pixels)" in page) == shown


# ---------------------------------------------------------------- errors


def test_non_finite_values_are_null(tmp_path):
    run = reporter(tmp_path)
    run.resume(0, 0)
    run.log_train(7, {"loss": float("nan"), "lr": 0.25})
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert record == {"step": 7, "split": "train", "loss": None, "lr": 0.25}
    run.finish(7)


def _full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_no_line(tmp_path, monkeypatch, caplog):
    run = reporter(tmp_path / "full")
    run.resume(0, 0)
    run_steps(run, 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(files.GrowingFile, "_store", _full)
        run_steps(run, 2, 3)
    assert [r.message for r in caplog.records if "metrics" in r.message] == [
        f"{tmp_path}/full/metrics.jsonl cannot be written: No space left on device; "
        "free some space or mend the permissions; the run goes on and tries again later"
    ]
    run_steps(run, 4, 4)
    assert "is written again, with nothing missing" in caplog.text
    whole = reporter(tmp_path / "whole")
    whole.resume(0, 0)
    run_steps(whole, 1, 4)
    lines = [tmp_path / name / "metrics.jsonl" for name in ("full", "whole")]
    assert lines[0].read_bytes() == lines[1].read_bytes()


def test_a_report_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch, capsys):
    run = reporter(tmp_path)
    run.resume(0, 0)
    monkeypatch.setattr(files.os, "replace", _full)
    run_steps(run, 1, 2)
    run.finish(2)
    assert (
        f"warning: {tmp_path}/confusion_val-ema.csv cannot be written: No space left "
        "on device; free some space or mend the permissions; the run goes on without "
        "this file" in capsys.readouterr().err
    )


def test_a_bucket_gets_several_tries(monkeypatch, caplog):
    monkeypatch.setattr(files, "_PAUSES", (0.0, 0.0))
    failures = [TimeoutError("slow"), TimeoutError("slow")]

    def write():
        if failures:
            raise failures.pop()

    files.insist(epath.Path("gs://bucket/file"), write)
    assert caplog.text.count("gs://bucket/file: slow; trying again") == 2
    failures += [TimeoutError("slow")] * 3
    with pytest.raises(files.WriteError, match="gs://bucket/file cannot be written"):
        files.insist(epath.Path("gs://bucket/file"), write)


def test_unwritable_workdir_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as error:
        reporter(tmp_path / "file" / "run")
    assert str(error.value) == (
        f"cannot write to the workdir {tmp_path}/file/run: Not a directory; give "
        "--workdir a folder or bucket that exists or can be made, and that you may "
        "write to"
    )


def test_broken_history_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n<html>\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl holds a line that is not"):
        reporter(tmp_path)


def test_unknown_section_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no time section 'data'"):
        with reporter(tmp_path).section("data"):
            pass


def test_inactive_reporter_writes_nothing(tmp_path, capsys):
    run = reporter(tmp_path / "run", active=False)
    run.resume(0, 0)
    with run.section("step"):
        run.log_train(1, {"loss": 1.0})
    run.log_eval(1, "val", summary(0.5), np.eye(2))
    run.log_images(1, [{"id": "x"}])
    run.log_worst(1, [{"id": "x"}])
    run.progress(1)
    run.finish(1)
    assert run.position == 0
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------- the other files


def test_config_holds_the_config_and_its_provenance(tmp_path):
    reporter(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "config": {"model": {"name": "eseg_s"}, "dataset": {"name": "camvid"}},
        "revision": "abc123",
        "versions": {"jax": "0.10.2"},
    }


def example(name, size, miou=0.0):
    image, label = np.full((*size, 3), 60, np.uint8), np.zeros(size, np.uint8)
    return dict(id=name, image=image, label=label, prediction=label, miou=miou)


def test_worst_images_replace_the_earlier_ones(tmp_path):
    run = reporter(tmp_path)
    run.resume(0, 0)
    run.log_worst(2, [example("a", (6, 9), 0.125), example("b", (6, 9), 0.25)])
    run.log_worst(4, [example("ulm/c", (6, 9), 0.375)])
    assert [p.name for p in (tmp_path / "worst").iterdir()] == ["1_ulm-c.png"]
    assert "ulm-c, mIoU 37.5 %" in (tmp_path / "report.html").read_text()

    again = reporter(tmp_path)
    again.resume(4, 0)
    again.finish(4)
    assert "ulm-c, mIoU 37.5 %" in (tmp_path / "report.html").read_text()
    # A run resumed before that evaluation does not know it yet.
    earlier = reporter(tmp_path)
    earlier.resume(3, 0)
    earlier.finish(3)
    assert "Worst images" not in (tmp_path / "report.html").read_text()


def test_scores_of_images_round_trip(tmp_path):
    run = reporter(tmp_path)
    run.resume(0, 0)
    scores = [("a,1", 0.1, 0.2), ("b", None, None)]
    run.log_eval(3, "val", summary(0.5), np.eye(2, dtype=int), scores)
    path = epath.Path(tmp_path / "scores_val-ema.csv")
    assert files.read_scores(path) == (3, {"a,1": (0.1, 0.2), "b": (None, None)})


def test_images_get_safe_names_and_reach_the_page(tmp_path):
    run = reporter(tmp_path)
    run.resume(0, 0)
    for step in (2, 4):
        run.log_images(step, [example("../ulm/a 1.png", (6, 9))])
    names = sorted(p.name for p in (tmp_path / "images").iterdir())
    assert names == ["2_ulm-a-1.png.png", "4_ulm-a-1.png.png"]

    # A run resumed between the two forgets the second.
    resumed = reporter(tmp_path)
    resumed.resume(3, 0)
    resumed.finish(3)
    page = (tmp_path / "report.html").read_text()
    assert "ulm-a-1.png, step 2" in page and "ulm-a-1.png, step 4" not in page


def test_flows_are_drawn_and_survive_a_resume(tmp_path):
    run = reporter(tmp_path)
    run.resume(0, 0)
    view = {
        "before": np.eye(3),
        "flow": np.ones((6, 9, 2), np.float32),
        "after": np.ones((6, 9)),
    }
    for step in (2, 4):
        flowing = example("a", (6, 9)) | {"views": {"FAM of level 0": view}}
        run.log_images(step, [flowing])
    assert (tmp_path / "flow" / "4_a.png").is_file()
    assert "Semantic flow" in (tmp_path / "report.html").read_text()

    resumed = reporter(tmp_path)
    resumed.resume(3, 0)
    resumed.finish(3)
    page = (tmp_path / "report.html").read_text()
    section = page[page.index("Semantic flow") :]
    assert "a, step 2" in section and "a, step 4" not in section


def test_wide_images_are_thinned(tmp_path):
    run = reporter(tmp_path)
    run.resume(0, 0)
    run.log_images(1, [example("wide", (4, 2048))])
    with Image.open(tmp_path / "images" / "1_wide.png") as opened:
        assert opened.width == 4 * 1024 + 3 * 4
        assert opened.info["tile"] == "2x1024"


def test_tensorboard_reads_the_scalars_and_drops_orphans(tmp_path, monkeypatch):
    # Without this TensorBoard would read the file through TensorFlow.
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", sys)
    from tensorboard.backend.event_processing import event_accumulator

    first = reporter(tmp_path)
    first.resume(0, 0)
    positions = run_steps(first, 1, 4)
    second = reporter(tmp_path)
    second.resume(2, positions[1])
    second.log_train(3, {"loss": 0.25})
    accumulator = event_accumulator.EventAccumulator(str(tmp_path))
    accumulator.Reload()
    read = {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in ("train/loss", "val-ema/miou", "val-ema_iou/road")
    }
    assert read == {
        "train/loss": [(1, 1.0), (2, 0.5), (3, 0.25)],
        "val-ema/miou": [(2, 0.5)],
        "val-ema_iou/road": [(2, 0.5)],
    }
    assert "val-ema_iou/sky" not in accumulator.Tags()["scalars"]


def test_objects_in_a_bucket_are_rewritten_whole_but_rarely(
    tmp_path, monkeypatch, clock
):
    monkeypatch.setattr(files, "is_remote", lambda path: True)
    run = reporter(tmp_path)
    run.resume(0, 0)
    metrics = tmp_path / "metrics.jsonl"
    run.log_train(1, {"loss": 1.0})
    assert lines(metrics) == []  # within 30 s of the rewrite by resume
    clock.now += 31
    run.log_train(2, {"loss": 1.0})
    assert [r["step"] for r in lines(metrics)] == [1, 2]
    run.log_train(3, {"loss": 1.0})
    assert len(lines(metrics)) == 2
    assert run.position == metrics.stat().st_size  # a checkpoint forces it out
    assert [r["step"] for r in lines(metrics)] == [1, 2, 3]


# ---------------------------------------------------------------- time


def test_time_split_is_exclusive_and_complete(tmp_path, clock):
    run = reporter(tmp_path)
    run.resume(0, 0)
    with run.section("step"):
        clock.now += 1
        with run.section("compile"):
            clock.now += 10
        clock.now += 2
    with run.section("input"):
        clock.now += 4
    clock.now += 1  # claimed by nobody
    run.log_train(2, {"loss": 1.0})
    with run.section("evaluation"):
        clock.now += 5
    run.finish(2)

    first, last = lines(tmp_path / "timing.jsonl")
    assert first["seconds"] == {
        "compile": 10.0,
        "step": 3.0,
        "input": 4.0,
        "evaluation": 0.0,
        "checkpoint": 0.0,
        "other": 1.0,
    }
    # 2 steps of 4 images in 3 + 4 + 1 s: compiling does not count.
    assert (first["images"], first["images_per_second"]) == (8, 1.0)
    assert last["seconds"]["evaluation"] == 5.0
    assert (last["images"], last["images_per_second"]) == (0, None)
    totals = json.loads((tmp_path / "timing.json").read_text())
    assert totals["total_seconds"] == 23.0
    assert totals["seconds"]["compile"] == 10.0


def test_progress_is_one_plain_line_in_ten_seconds(tmp_path, capsys, clock):
    run = reporter(tmp_path)
    run.resume(0, 0)
    with run.section("compile"):
        clock.now += 8
    run.log_train(1, {"loss": 0.5})
    run.progress(1)  # 8 s after the start
    with run.section("input"):
        clock.now += 1
    with run.section("step"):
        clock.now += 3
    run.progress(2)  # 12 s
    run.progress(3)
    assert capsys.readouterr().err == (
        "2/8 [#####               ]  25%  loss 0.5000  2.0 images/s (1.0/chip)  "
        "input 8%  elapsed 0:00:12  ETA 0:00:12\n"
    )


def test_progress_redraws_one_line_on_a_terminal(tmp_path, capsys, monkeypatch, clock):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "32")
    run = reporter(tmp_path)
    run.resume(4, 0)
    capsys.readouterr()
    clock.now += 1
    run.progress(4)
    assert capsys.readouterr().err == "\r4/8 [##########          ]  50%\x1b[K"


def test_import_needs_neither_tensorflow_nor_jax():
    code = (
        "import sys, eseg_jax.reporting; print({'jax', 'tensorflow'} & {*sys.modules})"
    )
    root = pathlib.Path(reporting.__file__).parents[1]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert out.stdout == "set()\n", out.stderr
