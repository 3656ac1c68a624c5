"""Saving and restoring one instant; refusing another model's checkpoint."""

import errno
import shutil
import time

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


def test_any_mesh_and_rules(tmp_path):
    """What one mesh split is restored on another, split otherwise or not at all."""
    state = _state(5.0, width=4)
    first = sharding.make_mesh({"data": 4})
    places = sharding.by_rules(state, first, [("trace", ("data",))])
    manager = checkpoint.open_manager(tmp_path, keep=2)
    saved = jax.device_put(state, places)
    assert saved.opt_state[0]["trace"].addressable_data(0).shape == (2, 1)
    checkpoint.save(manager, 5, saved, {}, None, wait=True)
    second = sharding.make_mesh({"data": 2, "spatial": 2})
    for rules in ([("trace", ("spatial", "data"))], []):
        places = sharding.by_rules(state, second, rules)
        found, _ = checkpoint.restore(manager, jax.eval_shape(lambda: state), places)
        assert found.opt_state[0]["trace"].sharding == places.opt_state[0]["trace"]
        jax.tree.map(np.testing.assert_array_equal, found, state)
    manager.close()


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


def _remove_state(folder):
    shutil.rmtree(folder / "state")


def _cut_files(folder):
    for file in folder.rglob("*"):
        if file.is_file() and "state" in str(file):
            file.write_bytes(file.read_bytes()[:10])


@pytest.mark.parametrize("harm", [_remove_state, _cut_files])
def test_a_broken_checkpoint_is_named_and_the_one_before_used(
    tmp_path, mesh, caplog, harm
):
    _save(tmp_path, [5, 10])
    harm(tmp_path / "checkpoints" / "10")
    manager = checkpoint.open_manager(tmp_path, keep=2)
    args = (manager, _state(), sharding.replicated(mesh))
    restored, meta = checkpoint.restore(*args, set_aside=True)
    assert meta["evaluated"] == 5
    np.testing.assert_array_equal(restored.params["conv"]["kernel"], 5.0)
    assert f"{tmp_path}/checkpoints/10 is broken: " in caplog.text
    assert f"{tmp_path}/checkpoints/5 is used instead" in caplog.text
    # Its step can be saved again.
    assert len(list((tmp_path / "broken_checkpoints").glob("10_*"))) == 1
    checkpoint.save(manager, 10, _state(10.0), {"evaluated": 10}, None, wait=True)
    assert checkpoint.restore(*args)[1]["evaluated"] == 10
    manager.close()


def test_changed_contents_are_noticed(tmp_path, mesh, caplog, monkeypatch):
    _save(tmp_path, [5])
    monkeypatch.setattr(
        checkpoint,
        "_checksum",
        lambda state, real=checkpoint._checksum: {**real(state), "data": 1},
    )
    with pytest.raises(checkpoint.CheckpointError, match=r"5: its contents are not"):
        _restore(tmp_path, _state(), mesh)
    assert not (tmp_path / "broken_checkpoints").exists()


def test_checksum_covers_every_bit(mesh):
    before = checkpoint._checksum(_state())
    state = jax.device_put(_state(), sharding.replicated(mesh))
    assert checkpoint._checksum(state) == before
    mean = state.batch_stats["bn"]["mean"].at[1].add(1e-6)
    after = checkpoint._checksum(state.replace(batch_stats={"bn": {"mean": mean}}))
    assert after["names"] == before["names"] and after["data"] != before["data"]


def test_saving_is_tried_again(tmp_path, mesh, monkeypatch, caplog):
    monkeypatch.setattr(checkpoint, "_PAUSES", (0.0, 0.0))
    manager = checkpoint.open_manager(tmp_path, keep=2)
    failures, save = [1, 2], manager.save

    def failing(*args, **kwargs):
        if failures:
            failures.pop()
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(*args, **kwargs)

    monkeypatch.setattr(manager, "save", failing)
    checkpoint.save(manager, 5, _state(), {"evaluated": 5}, None, wait=True)
    assert caplog.text.count("Saving step 5 failed: No space left on device") == 2
    failures += [1, 2, 3]
    with pytest.raises(checkpoint.SaveError) as error:
        checkpoint.save(manager, 6, _state(), {"evaluated": 6}, None)
    assert str(error.value) == (
        f"The checkpoint of step 6 cannot be written to {tmp_path}/checkpoints: No "
        "space left on device. Free some space or mend the permissions, then run the "
        "same command: it resumes from the last complete checkpoint."
    )
    checkpoint.close(manager)
    assert _restore(tmp_path, _state(), mesh)[1]["evaluated"] == 5


def test_a_save_lost_in_the_background_is_noticed(tmp_path, mesh, monkeypatch, caplog):
    manager = checkpoint.open_manager(tmp_path, keep=2)
    assert not checkpoint.lost(manager)
    with monkeypatch.context() as patch:
        patch.setattr(manager, "_finalize_checkpoint", _no_space)
        checkpoint.save(manager, 5, _state(), {"evaluated": 5}, None)
        while manager.is_saving_in_progress():
            time.sleep(0.01)
        assert checkpoint.lost(manager)
    assert "A checkpoint was lost: No space left on device; saving now" in caplog.text
    assert not checkpoint.lost(manager)
    checkpoint.save(manager, 6, _state(), {"evaluated": 6}, None, wait=True)
    checkpoint.close(manager)
    assert _restore(tmp_path, _state(), mesh)[1]["evaluated"] == 6


def _no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_variables_of_an_unknown_model(tmp_path):
    _save(tmp_path, [3, 12])
    folder = checkpoint.find(tmp_path)
    assert folder.name == "12"
    expected = {
        "params": {"conv": {"kernel": np.full((2, 3), 14.0)}},
        "batch_stats": {"bn": {"mean": np.full(3, 15.0)}},
    }
    read = checkpoint.read_variables(folder, None, "ema")
    jax.tree.map(np.testing.assert_array_equal, read, expected)
