"""A split's mIoU, by one of `protocols`; the default is one pass (ESeg §4.2).

Of a pre-training it is the top-1 and top-5 accuracy on the middle of each image.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from eseg_jax import (
    checkpoint,
    cityscapes,
    input,
    metrics,
    models,
    optimizer,
    protocols,
    sharding,
    state,
    steps,
)
from eseg_jax.config import validate
from eseg_jax.input import datasets
from eseg_jax.report.files import write_scores, write_text
from eseg_jax.report.gallery import write_worst
from eseg_jax.report.progress import progress

_logger = logging.getLogger(__name__)

_CLASSIFICATION = "the middle of each image, one pass"


def create_model(config: ConfigDict, num_classes: int):
    """The configuration's network, or its backbone as a classifier.

    "auto" computes in bfloat16 on TPU and GPU.
    """
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    options = config.model.options.to_dict()
    classifies = input.is_classification(config)
    create = models.create_classifier if classifies else models.create
    return create(
        config.model.name,
        num_classes,
        jnp.dtype(dtype),
        remat=config.get("remat", "none"),  # older runs have no such field
        **options,
    )


def jit_eval_step(config: ConfigDict, model, num_classes: int, mesh: Mesh):
    """Compiles the evaluation step for a mesh, once for each size of image.

    Images one by one, which may be of many sizes, and resized by `config.eval.size`:
    only the network is compiled as a whole, once for each of its few input sizes.
    ADE20K's 2,000 images have nearly as many sizes. They are not padded to fewer,
    because pooling over a whole image (ESeg's squeeze-and-excitation, SFNet's PPM)
    would see the padding and the score would be another.
    """
    info = models.info(config.model.name)
    split, whole = sharding.batched(mesh), sharding.replicated(mesh)
    if input.is_classification(config):
        step = steps.make_classify_step(model, mean=info.mean, std=info.std)
        return jax.jit(step, in_shardings=(whole, None), out_shardings=whole)
    protocol = protocols.from_config(config.eval)
    step = steps.make_eval_step(
        model,
        mean=info.mean,
        std=info.std,
        num_classes=num_classes,
        protocol=protocol,
        boundary=config.eval.boundary,
    )
    where = {
        "confusion": whole,
        "per_image": whole,
        "prediction": split,
        "boundary": [whole] * len(config.eval.boundary),
    }
    if protocol.few_network_sizes and config.eval.batch_size == 1:
        place = jax.jit(lambda counts: counts, out_shardings=where)
        return lambda variables, batch: place(step(variables, batch))
    # Batches come as `put_batch` placed them, which depends on their images' height.
    return jax.jit(step, in_shardings=(whole, None), out_shardings=where)


def jit_views_step(config: ConfigDict, model):
    """Compiles `steps.make_views_step` for one device; None if the model has no views.

    It gives (variables, images) -> {row title: maps}, see `report.flow.sheet`.
    """
    if not hasattr(model, "views"):
        return None
    info = models.info(config.model.name)
    return jax.jit(steps.make_views_step(model, mean=info.mean, std=info.std))


def with_views(views_step, variables, examples: list[dict]) -> list[dict]:
    """Adds "views" to the examples of `Evaluation`, where the model has any."""
    if views_step is None:
        return examples
    variables = jax.device_get(variables)  # of a mesh that other processes share

    def views(image: np.ndarray) -> dict:
        shown = jax.device_get(views_step(variables, image[None]))
        return jax.tree.map(lambda x: x[0], shown)

    return [{**example, "views": views(example["image"])} for example in examples]


@dataclasses.dataclass
class Evaluation:
    """What one pass over a split found.

    Attributes:
      confusion: int64 [c, c] of all processes, rows are the truth.
      scores: (id, mIoU, pixel accuracy) of every image of the split, in its order. An
        image's mIoU is the mean over the classes in its truth or prediction; what has
        no pixel is None.
      samples: images of this process spread over its part of the split, each a dict of
        "id", "image", "label", "prediction" and "miou".
      worst: this process's images of the lowest mIoU, the worst first.
      boundary: {threshold: a batch's int32 [n, c, 4] of `metrics.boundary_counts`, …}.
      top_counts: of a classification, which has none of the others: int64 [3], see
        `metrics.top_counts`.
    """

    confusion: np.ndarray | None = None
    scores: list[tuple[str, float | None, float | None]] = dataclasses.field(
        default_factory=list
    )
    samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    worst: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    boundary: dict[float, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    top_counts: np.ndarray | None = None

    def summary(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The split's figures: see `metrics.summarize` and `metrics.summarize_top`."""
        if self.top_counts is not None:
            return metrics.summarize_top(self.top_counts)
        figures = metrics.summarize(self.confusion, class_names)
        for threshold, counts in self.boundary.items():
            scores = metrics.boundary_f(np.concatenate(counts), class_names)
            figures |= {f"{key}_{threshold:g}": x for key, x in scores.items()}
        return figures


def evaluate_split(
    eval_step,
    variables: dict[str, Any],
    config: ConfigDict,
    mesh: Mesh,
    instances: cityscapes.InstanceCounts | None = None,
) -> Evaluation:
    """Runs over the evaluation split once.

    Args:
      eval_step: from `jit_eval_step`.
      variables: the model's.
      config: says which dataset and split.
      mesh: where batches go.
      instances: what counts the instances in this process's predictions, if anything.
    """
    if input.is_classification(config):
        return _classify_split(eval_step, variables, config, mesh)
    split, batch_size = config.dataset.eval_split, config.eval.batch_size
    ids = input.example_ids(config, split)
    local = batch_size // jax.process_count()
    # Neighbours in a split are often frames of one video: show some far apart.
    apart = max(1, len(ids) // jax.process_count() // max(1, config.eval.images))
    found = Evaluation(np.int64(0), boundary={x: [] for x in config.eval.boundary})
    variables = jax.device_put(variables, sharding.replicated(mesh))
    for number, batch in enumerate(_batches(config)):
        arrays = {name: batch[name] for name in ("image", "label")}
        arrays = sharding.put_batch(arrays, mesh)
        with jax.set_mesh(mesh):
            counts = eval_step(variables, arrays)
        # int64 on the host: an int32 sum overflows on a training split.
        found.confusion = found.confusion + np.asarray(counts["confusion"], np.int64)
        scores = metrics.image_scores(np.asarray(counts["per_image"]))
        first = number * batch_size
        found.scores += [
            (name, *score)
            for name, score in zip(
                ids[first : first + batch_size], scores, strict=False
            )
        ]

        # An image that only fills the batch would score 1: neither map has a class.
        for kept, new in zip(found.boundary.values(), counts["boundary"], strict=True):
            kept.append(np.asarray(new)[: len(ids) - first])

        # This process's images; their predictions are fetched only when wanted.
        scores = scores[jax.process_index() * local :][:local]
        rows = [row for row in range(local) if batch["mask"][row]]
        sampled = [row for row in rows if (number * local + row) % apart == 0]
        sampled = sampled[: config.eval.images - len(found.samples)]
        bad = [row for row in rows if _is_worse(scores[row][0], found.worst, config)]
        if not (sampled or bad or instances):
            continue
        batch["prediction"] = sharding.local_rows(counts["prediction"])

        def example(row, batch=batch, scores=scores):
            # Copies: a view would keep the whole batch in memory.
            maps = {p: batch[p][row].copy() for p in ("image", "label", "prediction")}
            return {"id": batch["id"][row], "miou": scores[row][0], **maps}

        found.samples += map(example, sampled)
        worst = sorted([*found.worst, *map(example, bad)], key=lambda x: x["miou"])
        found.worst = worst[: config.eval.worst]
        for row in rows if instances else ():
            instances.add(batch["id"][row], batch["prediction"][row])
    return found


def _classify_split(eval_step, variables, config: ConfigDict, mesh: Mesh) -> Evaluation:
    found = Evaluation(top_counts=np.int64(0))
    variables = jax.device_put(variables, sharding.replicated(mesh))
    for batch in _batches(config):
        arrays = {name: batch[name] for name in ("image", "label")}
        counts = eval_step(variables, sharding.put_batch(arrays, mesh))
        found.top_counts = found.top_counts + np.asarray(counts, np.int64)
    return found


def _batches(config: ConfigDict) -> Iterator[dict]:
    """This process's part of the evaluation split; the first says how far it is."""
    batches = input.eval_batches(
        config,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    if jax.process_index() > 0:
        return batches
    split = config.dataset.eval_split
    count = -(-input.num_examples(config, split) // config.eval.batch_size)
    return progress(batches, count, f"{split}, batches")


def protocol_text(config: ConfigDict) -> str:
    """How the evaluation split is measured, in words."""
    if input.is_classification(config):
        return _CLASSIFICATION
    return str(protocols.from_config(config.eval))


def _is_worse(miou: float | None, worst: list, config: ConfigDict) -> bool:
    if miou is None or not config.eval.worst:
        return False
    return len(worst) < config.eval.worst or miou < worst[-1]["miou"]


def _instance_counts(config, dataset) -> cityscapes.InstanceCounts | None:
    """Ready to count the evaluation split's instances; None where they are unknown."""
    if config.dataset.name != "cityscapes" or datasets.from_records(config.dataset):
        return None
    split, root = config.dataset.eval_split, config.dataset.root
    examples = datasets.list_split(dataset, split, root).examples
    files = {x.id: cityscapes.instance_file(x.label) for x in examples}
    missing = [file for file in files.values() if not epath.Path(file).exists()]
    if missing:
        _logger.warning(
            "No iIoU: %d of %d images have no file of instances, first %s.",
            len(missing),
            len(files),
            missing[0],
        )
        return None
    return cityscapes.InstanceCounts(dataset.class_names, files)


def evaluate(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Evaluates the latest checkpoint of a run; writes and returns its record.

    The record, workdir/evaluation/<split>_<step>_<weights>.json, says what was
    measured: the metrics, the step, split, protocol, weights and the configuration's
    hash. Beside it lie the scores of every image (.csv) and panels of the worst ones.
    Another protocol than a single pass adds eight digits of its hash to the name.
    On Cityscapes the IoU of categories is there too, and that of instances if all
    images have a gtFine_instanceIds file.

    Raises:
      CheckpointError: there is no checkpoint, or it is another model's.
    """
    validate(config)
    dataset = input.dataset_info(config)
    mesh = sharding.make_mesh(config.mesh)
    mesh = sharding.for_batches(mesh, config.eval.batch_size)
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
    variables = trained.variables(config.eval.weights)
    instances = _instance_counts(config, dataset)
    found = evaluate_split(eval_step, variables, config, mesh, instances)
    protocol = protocol_text(config)
    text = json.dumps(config.to_dict(), sort_keys=True)
    record = {
        "step": step,
        "dataset": config.dataset.name,
        "split": config.dataset.eval_split,
        "images": len(found.scores),
        "protocol": protocol,
        "weights": config.eval.weights,
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        **found.summary(dataset.class_names),
    }
    if config.dataset.name == "cityscapes":
        record |= cityscapes.category_scores(found.confusion, dataset.class_names)
    if instances:
        instances.add_processes(sharding.sum_over_processes)
        record |= instances.scores(found.confusion)
    if jax.process_index() == 0:
        folder = epath.Path(workdir) / "evaluation"
        name = f"{config.dataset.eval_split}_{step}_{config.eval.weights}"
        if protocol not in (str(protocols.SINGLE), _CLASSIFICATION):
            name += "_" + hashlib.sha256(protocol.encode()).hexdigest()[:8]
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=2)
        write_text(folder / f"{name}.json", text + "\n")
        if found.scores:
            write_scores(folder / f"{name}.csv", step, found.scores)
            write_worst(
                folder / name, step, found.worst, dataset.colours, dataset.class_names
            )
        print(text)
    return record
