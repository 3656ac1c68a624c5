"""Checkpoints of one instant of a run: the only file that knows orbax.

The input needs no state of its own: its stream is a function of seed and step.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from eseg_jax.state import TrainState
from eseg_jax.trees import flatten_names


class CheckpointError(ValueError):
    """A checkpoint that does not belong to this model, or none where one must be."""


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
) -> None:
    """Saves a state with its json-able `meta`; `miou` only if it is of this step.

    In a pre-training the top-1 accuracy stands for the mIoU.
    """
    if step in manager.all_steps():
        return
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
        ),
        metrics=None if miou is None else {"miou": miou},
        # Due saves are the loop's decision, also at a step of no regular interval.
        force=True,
    )


def restore(
    manager: ocp.CheckpointManager,
    state: TrainState,
    sharding: jax.sharding.Sharding,
    step: int | None = None,
) -> tuple[TrainState, dict[str, Any]] | None:
    """Restores the latest checkpoint, or that of `step`; None when there is none.

    Args:
      manager: from `open_manager`.
      state: shapes and types to restore, from `jax.eval_shape` or a real state.
      sharding: where every leaf goes.
      step: the step to restore.

    Raises:
      CheckpointError: names or shapes differ from `state`'s; all are listed.
    """
    step = manager.latest_step() if step is None else step
    if step is None:
        return None
    saved = manager.item_metadata(step)["state"].tree
    _check(saved, state, manager.directory / str(step))
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
    )
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
        ),
    )
    return restored["state"], restored["meta"]


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
    folder: epath.Path, variables: dict[str, Any], weights: str
) -> dict[str, Any]:
    """The model's variables alone, without the optimiser's state, on one device.

    Args:
      folder: of the checkpoint, from `find`.
      variables: shapes and types of "params" and "batch_stats".
      weights: "ema" or "raw".

    Raises:
      CheckpointError: names or shapes differ; all are listed.
    """
    if weights not in ("ema", "raw"):
        raise ValueError(f"There are no weights {weights!r}; choose ema or raw.")
    prefix = "ema_" if weights == "ema" else ""
    wanted = {prefix + name: tree for name, tree in variables.items()}
    reader = ocp.PyTreeCheckpointHandler()
    saved = reader.metadata(folder / "state").tree
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
    found = {name: tuple(x.shape) for name, x in flatten_names(saved).items()}
    wanted = {name: tuple(x.shape) for name, x in flatten_names(state).items()}
    lines = [f"missing {name} {wanted[name]}" for name in wanted.keys() - found.keys()]
    lines += [f"extra {name} {found[name]}" for name in found.keys() - wanted.keys()]
    lines += [
        f"{name} is {found[name]} there and {wanted[name]} here"
        for name in wanted.keys() & found.keys()
        if wanted[name] != found[name]
    ]
    if lines:
        listed = "\n  ".join(sorted(lines))
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
