"""Saving and restoring one instant; refusing another model's checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eseg_jax import checkpoint, sharding
from eseg_jax.state import TrainState


def _state(value=1.0, width=3, name="kernel"):
    params = {"conv": {name: jnp.full((2, width), value)}}
    return TrainState(
        step=jnp.int32(5),
        params=params,
        batch_stats={"bn": {"mean": jnp.full((width,), value + 1)}},
        ema_params=jax.tree.map(lambda x: x + 2, params),
        ema_batch_stats={"bn": {"mean": jnp.full((width,), value + 3)}},
        opt_state=({"trace": jnp.full((2, width), value + 4)},),
    )


def _restore(folder, state, mesh, step=None):
    manager = checkpoint.open_manager(folder, keep=2)
    try:
        return checkpoint.restore(manager, state, sharding.replicated(mesh), step)
    finally:
        manager.close()


def _save(folder, steps, mious=None):
    manager = checkpoint.open_manager(folder, keep=2)
    for i, step in enumerate(steps):
        miou = mious[i] if mious else None
        meta = {"evaluated": step, "metrics_position": 7}
        checkpoint.save(manager, step, _state(float(step)), meta, miou)
    manager.wait_until_finished()
    kept = manager.all_steps()
    manager.close()
    return kept


def test_nothing_to_restore(tmp_path, mesh):
    assert _restore(tmp_path, _state(), mesh) is None


def test_round_trip(tmp_path, mesh):
    _save(tmp_path, [5])
    restored, meta = _restore(tmp_path, jax.eval_shape(_state), mesh)
    assert meta == {"evaluated": 5, "metrics_position": 7}
    for saved, found in zip(
        jax.tree.leaves(_state(5.0)), jax.tree.leaves(restored), strict=True
    ):
        np.testing.assert_array_equal(saved, found)
        assert found.sharding == sharding.replicated(mesh)


def test_a_relative_folder(tmp_path, mesh, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _save("runs/one", [5])
    assert _restore(tmp_path / "runs" / "one", _state(), mesh) is not None


def test_latest_and_best_are_kept(tmp_path):
    kept = _save(tmp_path, [1, 2, 3, 4], mious=[0.1, 0.9, 0.3, 0.2])
    assert sorted(kept) == [2, 3, 4]


def test_a_worse_metric_never_deletes_the_newest(tmp_path):
    kept = _save(tmp_path, [1, 2, 3], mious=[0.9, 0.8, 0.1])
    assert sorted(kept) == [1, 2, 3]


def test_saving_a_step_twice_keeps_the_first(tmp_path, mesh):
    _save(tmp_path, [5])
    manager = checkpoint.open_manager(tmp_path, keep=2)
    checkpoint.save(manager, 5, _state(99.0), {"evaluated": 0}, None)
    manager.close()
    restored, _ = _restore(tmp_path, _state(), mesh)
    np.testing.assert_array_equal(restored.params["conv"]["kernel"], 5.0)


def test_another_model_is_refused_by_name(tmp_path, mesh):
    _save(tmp_path, [5])
    with pytest.raises(checkpoint.CheckpointError) as error:
        _restore(tmp_path, _state(width=4, name="weight"), mesh)
    text = str(error.value)
    assert "missing params/conv/weight (2, 4)" in text
    assert "extra params/conv/kernel (2, 3)" in text
    assert "batch_stats/bn/mean is (3,) there and (4,) here" in text
    assert "--workdir" in text
