"""Checkpoints of one instant of a run, in orbax's form: no other file knows it.

The input needs no state of its own: its stream is a function of seed and step.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from eseg_jax.state import TrainState
from eseg_jax.trees import differences, flatten_names

_PAUSES = (1.0, 4.0, 16.0)  # seconds between tries to save
_logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint of another model, a broken one, or none where one must be."""


class SaveError(OSError):
    """A checkpoint cannot be written."""


def open_manager(workdir, keep: int) -> ocp.CheckpointManager:
    """Opens workdir/checkpoints, keeping the latest `keep` and the best mIoU.

    Saving is asynchronous; `close()` waits for it. Orbax's own pair of `max_to_keep`
    and `best_fn` would delete the newest checkpoint whenever the metric worsens.
    """
    policy = checkpoint_managers.AnyPreservationPolicy(
        [
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics["miou"],
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
    )
    folder = epath.Path(workdir) / "checkpoints"
    return ocp.CheckpointManager(
        # Orbax refuses relative paths; making a bucket's absolute would spoil it.
        folder if folder.is_absolute() else folder.resolve(),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        ),
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        },
    )


def save(
    manager: ocp.CheckpointManager,
    step: int,
    state: TrainState,
    meta: dict[str, Any],
    miou: float | None,
    *,
    wait: bool = False,
) -> None:
    """Saves a state with its json-able `meta`; `miou` only if it is of this step.

    In a pre-training the top-1 accuracy stands for the mIoU. A lone process tries a few
    times. Of several processes, one that fails stops: the others wait for it inside the
    save, so that it cannot start again by itself.

    Args:
      wait: return when the checkpoint is complete, not when it has been started.

    Raises:
      SaveError: this save, or one before that was still under way, has failed.
    """
    meta = meta | {"checksum": _checksum(state)}
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
    )
    pauses = _PAUSES if jax.process_count() == 1 else ()
    for pause in (*pauses, None):
        try:
            if step not in manager.all_steps():
                # Due saves are the loop's decision, also at a step of no regular
                # interval: force.
                metrics = None if miou is None else {"miou": miou}
                manager.save(step, args=args, metrics=metrics, force=True)
            if wait:
                manager.wait_until_finished()
            return
        except Exception as error:  # buckets raise their client library's own types
            if pause is None:
                what = f"The checkpoint of step {step}"
                raise _save_error(what, manager, error) from error
            _logger.warning(
                "Saving step %d failed: %s; trying again in %g s.",
                step,
                _reason(error),
                pause,
            )
            time.sleep(pause)


def lost(manager: ocp.CheckpointManager) -> bool:
    """Whether a save in the background has just failed, so that another is due.

    Raises:
      SaveError: it has, and this is one of several processes; see `save`.
    """
    if manager.is_saving_in_progress():
        return False
    try:
        manager.wait_until_finished()
    except Exception as error:
        if jax.process_count() > 1:
            raise _save_error("A checkpoint", manager, error) from error
        _logger.warning("A checkpoint was lost: %s; saving now.", _reason(error))
        return True
    return False


def _save_error(what: str, manager, error: Exception) -> SaveError:
    return SaveError(
        f"{what} cannot be written to {manager.directory}: {_reason(error)}. Free some "
        "space or mend the permissions, then run the same command: it resumes from the "
        "last complete checkpoint."
    )


def close(manager: ocp.CheckpointManager) -> None:
    """Waits for a save under way; its failure never hides what ended the run."""
    try:
        manager.close()
    except Exception as error:
        _logger.error("The last checkpoint was lost: %s.", _reason(error))


def restore(
    manager: ocp.CheckpointManager,
    state: TrainState,
    sharding: Any,
    step: int | None = None,
    *,
    set_aside: bool = False,
) -> tuple[TrainState, dict[str, Any]] | None:
    """Restores the latest whole checkpoint, or that of `step`; None if there is none.

    A checkpoint that cannot be read, or whose contents are not those that were saved,
    is named in the log and the one before it is used.

    Args:
      manager: from `open_manager`.
      state: shapes and types to restore, from `jax.eval_shape` or a real state.
      sharding: where the leaves go, whatever devices they were saved from: one for
        all, or a tree like `state`.
      step: the step to restore.
      set_aside: move broken checkpoints to broken_checkpoints/ in the workdir, so that
        their steps can be saved again. Only the process that trains may do so.

    Raises:
      CheckpointError: names or shapes differ from `state`'s, all are listed; or there
        are checkpoints and each is broken.
    """
    steps = sorted(manager.all_steps(), reverse=True) if step is None else [step]
    broken: dict[int, str] = {}
    for step in steps:
        restored, problem = _try_to_restore(manager, state, sharding, step)
        if _anywhere(problem is not None):
            broken[step] = problem or "another process of the job cannot read it"
            where = manager.directory / str(step)
            _logger.error("Checkpoint %s is broken: %s.", where, broken[step])
            continue
        if broken:
            _logger.error(
                "Checkpoint %s is used instead.", manager.directory / str(step)
            )
            if set_aside:
                _set_aside(manager, broken)
        return restored
    if broken:
        raise CheckpointError(
            f"No checkpoint in {manager.directory} can be read; move that folder away "
            "to start anew. "
            + " ".join(f"{step}: {problem}." for step, problem in broken.items())
        )
    return None


def _try_to_restore(manager, state, sharding, step: int):
    """((state, meta), None), or (None, what is wrong with the checkpoint)."""
    try:
        saved = manager.item_metadata(step)["state"]
        if saved is None:
            return None, "its folder state/ is missing"
        _check(saved.tree, state, manager.directory / str(step))
        target = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            state,
            jax.tree.broadcast(sharding, state),
        )
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
            ),
        )
    except CheckpointError:
        raise
    except Exception as error:  # of any of the libraries that read it
        return None, _reason(error)
    state, meta = restored["state"], restored["meta"]
    saved, found = meta.pop("checksum", None), _checksum(state)
    # Sharded over other processes than when it was saved: nothing to compare.
    if saved and saved["names"] == found["names"] and saved["data"] != found["data"]:
        return None, "its contents are not those that were saved (checksum)"
    return (state, meta), None


def _checksum(state: TrainState) -> dict[str, int]:
    """CRC-32 of the arrays that this process holds whole, and of their names.

    Storage notices files that are cut off; a flipped bit inside an array it does not.
    """
    whole = {k: x for k, x in flatten_names(state).items() if x.is_fully_replicated}
    data = 0
    for name in sorted(whole):
        # A view of its own: one kept by the array would be in the way of donation.
        array = np.ascontiguousarray(whole[name].addressable_data(0))
        data = zlib.crc32(array.view(np.uint8), data)
    return {"names": zlib.crc32(" ".join(sorted(whole)).encode()), "data": data}


def _anywhere(here: bool) -> bool:
    """Whether something is so in any process of the job."""
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.array(here))))


def _set_aside(manager: ocp.CheckpointManager, steps) -> None:
    folder = manager.directory.parent / "broken_checkpoints"
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for step in steps:
            name = f"{step}_{time.strftime('%Y%m%d_%H%M%S')}"
            (manager.directory / str(step)).rename(folder / name)
            _logger.error("Checkpoint %d was moved to %s.", step, folder / name)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("broken checkpoints set aside")
    manager.reload()


def _reason(error: Exception) -> str:
    """The gist of an error, however long its message."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300].rstrip(".")


def find(path) -> epath.Path:
    """The folder of one checkpoint: `path` itself, or the latest of a workdir.

    Nothing is opened or cleaned up: a run may be writing there.

    Raises:
      CheckpointError: there is none.
    """
    path = epath.Path(path).expanduser()
    path = path if path.is_absolute() else path.resolve()
    if (path / "meta").exists():
        return path
    for folder in (path / "checkpoints", path):
        done = folder.is_dir() and [
            step
            for step in folder.iterdir()
            if step.name.isdigit() and (step / "_CHECKPOINT_METADATA").exists()
        ]
        if done:
            return max(done, key=lambda step: int(step.name))
    raise CheckpointError(
        f"{path} holds no checkpoint; give a run's workdir or one of the folders in "
        "its checkpoints/."
    )


def read_meta(folder: epath.Path) -> dict[str, Any]:
    """The `meta` that was saved in a checkpoint's folder."""
    return ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(folder / "meta")


def read_variables(
    folder: epath.Path, variables: dict[str, Any] | None, weights: str
) -> dict[str, Any]:
    """The model's variables alone, without the optimiser's state, on one device.

    Args:
      folder: of the checkpoint, from `find`.
      variables: shapes and types of "params" and "batch_stats"; None takes what is
        there.
      weights: "ema" or "raw".

    Raises:
      CheckpointError: names or shapes differ; all are listed.
    """
    if weights not in ("ema", "raw"):
        raise ValueError(f"There are no weights {weights!r}; choose ema or raw.")
    prefix = "ema_" if weights == "ema" else ""
    reader = ocp.PyTreeCheckpointHandler()
    saved = reader.metadata(folder / "state").tree
    if variables is None:
        variables = {name: saved[prefix + name] for name in ("params", "batch_stats")}
    wanted = {prefix + name: tree for name, tree in variables.items()}
    _check({name: saved.get(name, {}) for name in wanted}, wanted, folder)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), wanted
    )
    restored = reader.restore(
        folder / "state",
        args=ocp.args.PyTreeRestore(
            item=target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        ),
    )
    return {name.removeprefix("ema_"): tree for name, tree in restored.items()}


def _check(saved, state, where) -> None:
    """Compares names and shapes of a checkpoint with those of the model."""
    lines = differences(flatten_names(saved), flatten_names(state))
    if lines:
        listed = "\n  ".join(lines)
        raise CheckpointError(
            f"{where} holds another model than the configuration's; use another "
            f"--workdir, or the configuration it was trained with ({len(lines)} "
            f"differences):\n  {listed}"
        )


def preemption_watch() -> Callable[[int], bool]:
    """Returns reached(step): has this job been told to stop (SIGTERM)?

    With `jax.distributed` all processes get True at the same step. A lone process
    without it has its own signal handler.
    """
    if jax.distributed.is_initialized():
        return multihost_utils.reached_preemption_sync_point
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    return lambda step: told.is_set()
