"""A shrunk configuration end to end: two steps, save, resume, compare."""

import json

import jax
import numpy as np
import pytest

from eseg_jax import reporting, steps
from eseg_jax.checkpoint import CheckpointError
from eseg_jax.evaluate import evaluate
from eseg_jax.train import train


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Makes the uninterrupted run that the others are compared with, once."""
    runs = {}
    normalise = steps.normalise

    def checking(*args):
        # Operations that XLA cannot split by itself look for the mesh here.
        assert dict(jax.sharding.get_abstract_mesh().shape) == {"data": 4, "spatial": 1}
        return normalise(*args)

    log_eval = reporting.Reporter.log_eval

    def counting(self, *args):
        log_eval(self, *args)
        runs.setdefault("compiled_at", []).append(len(compiled))

    compiled = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def run(config):
        if not runs:
            folder = tmp_path_factory.mktemp("unbroken")
            jax.monitoring.register_event_duration_secs_listener(listen)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(steps, "normalise", checking)
                patch.setattr(reporting.Reporter, "log_eval", counting)
                runs["state"], runs["folder"] = train(config, str(folder)), folder
            jax.monitoring.unregister_event_duration_listener(listen)
            runs["compiled_at"].append(len(compiled))
        return runs["state"], runs["folder"]

    run.results = runs
    return run


class _Killed(Exception):
    """Stands for whatever ends a process between two lines."""


def _equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_run_leaves_what_it_promises(unbroken, tiny_config):
    _, folder = unbroken(tiny_config)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["step"] for r in records if r["split"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records if r["split"] == "val"] == [3, 6]
    assert all(0 <= r["miou"] <= 1 for r in records if r["split"] == "val")
    written = json.loads((folder / "config.json").read_text())
    assert written["config"]["model"]["name"] == "eseg_lite_s"
    assert written["mesh"] == "data 4 x spatial 1"
    assert written["batch"] == "4 images a step, 1 at a time on each of 4 chips"
    assert written["learning_rate"].startswith("0.08 for the whole batch")
    assert len(list((folder / "images").glob("*.png"))) == 4  # two images, twice
    scores = (folder / "scores_val-ema.csv").read_text().splitlines()
    assert scores[0] == "step 6,miou,pixel_accuracy" and len(scores) == 7
    mious = {row.split(",")[0]: float(row.split(",")[1]) for row in scores[1:]}
    worst = [path.stem[2:] for path in sorted((folder / "worst").iterdir())]
    assert worst == sorted(mious, key=mious.get)[:4]
    assert "<svg" in (folder / "report.html").read_text()


def test_nothing_compiles_after_the_first_evaluation(unbroken, tiny_config):
    unbroken(tiny_config)
    first, second, end = unbroken.results["compiled_at"]
    assert first >= 2  # the train and the evaluation step
    assert first == second == end


def test_resumed_run_equals_unbroken_one(unbroken, tiny_config, tmp_path):
    whole, folder = unbroken(tiny_config)
    log_train = reporting.Reporter.log_train

    def killing(self, step, scalars):
        log_train(self, step, scalars)
        if step == 5:  # the last checkpoint is that of step 4
            raise _Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting.Reporter, "log_train", killing)
        with pytest.raises(_Killed):
            train(tiny_config, str(tmp_path))
    assert (tmp_path / "metrics.jsonl").read_text().count('"step": 5')
    resumed = train(tiny_config, str(tmp_path))
    _equal(whole, resumed)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (
        folder / "metrics.jsonl"
    ).read_bytes()


def test_finished_run_started_again_changes_nothing(unbroken, tiny_config):
    whole, folder = unbroken(tiny_config)
    before = (folder / "metrics.jsonl").read_bytes()
    _equal(whole, train(tiny_config, str(folder)))
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_evaluate_repeats_the_last_figure(unbroken, tiny_config):
    _, folder = unbroken(tiny_config)
    record = evaluate(tiny_config, str(folder))
    last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    assert record["miou"] == json.loads(last)["miou"]
    assert record["step"] == 6 and record["weights"] == "ema"
    assert record["protocol"] == "whole image at its own size, single scale, no flip"
    assert (folder / "evaluation" / "val_6_ema.json").exists()
    assert (folder / "evaluation" / "val_6_ema.csv").read_bytes() == (
        folder / "scores_val-ema.csv"
    ).read_bytes()


def test_evaluate_without_a_checkpoint(tiny_config, tmp_path):
    with pytest.raises(CheckpointError, match="train first"):
        evaluate(tiny_config, str(tmp_path))


def test_workdir_of_another_model_is_refused(unbroken, tiny_config):
    _, folder = unbroken(tiny_config)
    tiny_config.model.options.features = 16
    with pytest.raises(CheckpointError, match="another model"):
        train(tiny_config, str(folder))
