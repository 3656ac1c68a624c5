"""A split's mIoU: whole images at their own size, one scale, no flip (ESeg §4.2)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from eseg_jax import checkpoint, input, models, optimizer, sharding, state, steps
from eseg_jax.config import validate
from eseg_jax.metrics import summarize


def create_model(config: ConfigDict, num_classes: int):
    """The configuration's network; "auto" computes in bfloat16 on TPU and GPU."""
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    options = config.model.options.to_dict()
    return models.create(config.model.name, num_classes, jnp.dtype(dtype), **options)


def jit_eval_step(config: ConfigDict, model, num_classes: int, mesh: Mesh):
    """Compiles the evaluation step for a mesh, once for each size of image."""
    info = models.info(config.model.name)
    step = steps.make_eval_step(
        model, mean=info.mean, std=info.std, num_classes=num_classes
    )
    split, whole = sharding.batched(mesh), sharding.replicated(mesh)
    return jax.jit(step, in_shardings=(whole, split), out_shardings=(whole, split))


def evaluate_split(
    eval_step, variables: dict[str, Any], config: ConfigDict, mesh: Mesh
) -> tuple[np.ndarray, dict[str, list]]:
    """Runs over the evaluation split once.

    Args:
      eval_step: from `jit_eval_step`.
      variables: the model's, replicated over the mesh.
      config: says which dataset and split.
      mesh: where batches go.

    Returns:
      The confusion matrix of all processes, int64 [c, c], rows are the truth; and up
      to `config.eval.images` examples of this process, spread over its part of the
      split, as lists "id", "image", "label" and "prediction".
    """
    confusion: np.ndarray | int = 0
    samples: dict[str, list] = {"id": [], "image": [], "label": [], "prediction": []}
    # Neighbours in a split are often frames of one video: show some far apart.
    count = input.num_examples(config, config.dataset.eval_split)
    local_count = count // jax.process_count()
    apart, seen = max(1, local_count // max(1, config.eval.images)), 0
    batches = input.eval_batches(
        config,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for batch in batches:
        arrays = {name: batch[name] for name in ("image", "label")}
        arrays = sharding.put_batch(arrays, mesh)
        with jax.set_mesh(mesh):
            counts, predictions = eval_step(variables, arrays)
        rows = np.flatnonzero(batch["mask"])
        room = config.eval.images - len(samples["id"])
        rows = rows[(seen + rows) % apart == 0][:room]
        seen += len(batch["mask"])
        if len(rows):
            batch["prediction"] = sharding.local_rows(predictions)
            for name, values in samples.items():
                values.extend(batch[name][row] for row in rows)
        # int64 on the host: an int32 sum overflows on a training split.
        confusion = confusion + np.asarray(counts, np.int64)
    return confusion, samples


def evaluate(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Evaluates the latest checkpoint of a run; writes and returns its record.

    The record, workdir/evaluation/<split>_<step>_<weights>.json, says what was
    measured: the metrics, the step, split, scale, weights and the configuration's hash.

    Raises:
      CheckpointError: there is no checkpoint, or it is another model's.
    """
    validate(config)
    dataset = input.dataset_info(config)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.eval.batch_size, mesh, "config.eval.batch_size")
    model = create_model(config, dataset.num_classes)
    shapes = jax.eval_shape(
        lambda: state.init_state(
            model,
            optimizer.make_optimizer(config.optimizer, config.total_steps),
            jax.random.key(0),
        )
    )
    manager = checkpoint.open_manager(workdir, config.keep_checkpoints)
    restored = checkpoint.restore(manager, shapes, sharding.replicated(mesh))
    manager.close()
    if restored is None:
        raise checkpoint.CheckpointError(
            f"{workdir} has no checkpoint to evaluate; train first, with --mode=train "
            "and the same --workdir."
        )
    trained, _ = restored
    step = int(trained.step)
    eval_step = jit_eval_step(config, model, dataset.num_classes, mesh)
    confusion, _ = evaluate_split(
        eval_step, trained.variables(config.eval.weights), config, mesh
    )
    text = json.dumps(config.to_dict(), sort_keys=True)
    record = {
        "step": step,
        "dataset": config.dataset.name,
        "split": config.dataset.eval_split,
        "scale": "whole image at its own size, single scale, no flip",
        "weights": config.eval.weights,
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        **summarize(confusion, dataset.class_names),
    }
    if jax.process_index() == 0:
        folder = epath.Path(workdir) / "evaluation"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{config.dataset.eval_split}_{step}_{config.eval.weights}.json"
        text = json.dumps(record, indent=2)
        (folder / name).write_text(text + "\n")
        print(text)
    return record
