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
    """Saves a state with its json-able `meta`; `miou` only if it is of this step."""
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
    saved = manager.item_metadata(step)["state"]
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


def _check(saved, state: TrainState, where) -> None:
    """Compares names and shapes of a checkpoint with those of the model."""
    found = {name: tuple(x.shape) for name, x in flatten_names(saved.tree).items()}
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
