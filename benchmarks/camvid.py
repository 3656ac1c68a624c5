"""Trains a configuration on CamVid with its data in the device's memory; no TensorFlow.

  python benchmarks/camvid.py --config=configs/frfnet.py:camvid --workdir=DIR \
      [--seconds=540] [--config.FIELD=VALUE …]
  python benchmarks/camvid.py --tables=DIR [--json=FILE]

Model, optimiser, loss, train step, evaluation and checkpoints are the library's; only
the input is another: the whole data set lies in the device's memory (0.25 GB), where
each step scales, crops, mirrors and recolours its batch by the ranges of the
configuration, so that a fast device never waits. It stops after --seconds, saved; the
same command goes on. The validation split is evaluated as often as the configuration
says, the test split once, by the averaged weights at the end; DIR/result.json has both.

--tables=DIR prints the table of all DIR/*/result.json, seeds of a network together;
FILE gets the results themselves, but for their configurations.
"""

from __future__ import annotations

import functools
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags
from PIL import Image

from eseg_jax import (
    checkpoint,
    evaluate,
    init_from,
    job,
    metrics,
    optimizer,
    sharding,
    state,
)
from eseg_jax import input as data
from eseg_jax.config import validate
from eseg_jax.input.datasets import IGNORE, layouts
from eseg_jax.models import cost
from eseg_jax.rng import stream
from eseg_jax.train import lower_train_step

_PAD_COLOUR = (124, 116, 104)  # the mean of ImageNet, as the library's input pads
# Test mIoU in the papers. At 480x360 but for those marked, which are at 960x720.
_PAPERS = {
    "frfnet": "68.2",
    "dfanet_a": "64.7 (960x720)",
    "dfanet_b": "59.3 (960x720)",
    "sfnet_resnet18": "73.8 (960x720)",
    "sfnet_df2": "70.4 (960x720)",
}
_COLUMNS = (("val", "miou"), ("test", "miou"), ("test", "pixel_accuracy"))
_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run.")
_SECONDS = flags.DEFINE_float("seconds", 1e9, "Saves and stops after so long.")
_TABLES = flags.DEFINE_string("tables", None, "Folder of the runs to make a table of.")
_JSON = flags.DEFINE_string("json", None, "File for the results of --tables.")


def load(config, split: str, mesh) -> tuple[jax.Array, jax.Array]:
    """All images uint8 [n, h, w, 3] and labels uint8 [n, h, w], on every device."""
    found = layouts.list_split(data.dataset_info(config), split, config.dataset.root)
    table = found.kind.table()
    images = [np.asarray(Image.open(e.image).convert("RGB")) for e in found.examples]
    labels = [table[np.asarray(Image.open(e.label))] for e in found.examples]
    whole = sharding.replicated(mesh)
    return jax.device_put((np.stack(images), np.stack(labels)), whole)


def augment(image, label, key, settings) -> tuple[jax.Array, jax.Array]:
    """One random crop, as eseg_jax/input/transforms.py makes it on the host."""
    size, crop = jnp.array(label.shape), jnp.array(settings.crop)
    keys = jax.random.split(key, 6)
    scale = jax.random.uniform(keys[0], (), jnp.float32, *settings.scale)
    window = jnp.maximum(jnp.round(crop / scale), 1)
    room = size - window
    first = jnp.sign(room) * jnp.floor(
        jax.random.uniform(keys[1], (2,)) * (jnp.abs(room) + 1)
    )
    rows, columns = (
        first[axis]
        + (jnp.arange(settings.crop[axis]) + 0.5) * window[axis] / crop[axis]
        for axis in (0, 1)
    )
    if settings.flip:
        columns = jnp.where(jax.random.bernoulli(keys[2]), columns[::-1], columns)

    def lerp(x, positions, axis):
        positions = jnp.clip(positions - 0.5, 0, x.shape[axis] - 1)
        low = jnp.floor(positions).astype(jnp.int32)
        high = jnp.minimum(low + 1, x.shape[axis] - 1)
        shape = [-1 if i == axis else 1 for i in range(3)]
        share = (positions - low).reshape(shape)
        return (1 - share) * jnp.take(x, low, axis) + share * jnp.take(x, high, axis)

    row = jnp.clip(jnp.floor(rows).astype(jnp.int32), 0, size[0] - 1)
    column = jnp.clip(jnp.floor(columns).astype(jnp.int32), 0, size[1] - 1)
    label = label[row][:, column]
    image = lerp(lerp(image.astype(jnp.float32), rows, 0), columns, 1)
    image = _recolour(image / 255, keys[3:], settings)
    inside = ((rows >= 0) & (rows < size[0]))[:, None] & (
        (columns >= 0) & (columns < size[1])
    )[None]
    colour = jnp.array(_PAD_COLOUR, jnp.float32).reshape(1, 1, 3)
    image = jnp.where(inside[..., None], jnp.round(image * 255), colour)
    return image.astype(jnp.uint8), jnp.where(inside, label, IGNORE).astype(jnp.uint8)


def _recolour(image, keys, settings):
    """Brightness, contrast and saturation of an image in [0, 1]."""

    def draw(key, half_range):
        return jax.random.uniform(key, (), jnp.float32, -half_range, half_range)

    image = image + draw(keys[0], settings.brightness)
    mean = image.mean(axis=(0, 1), keepdims=True)
    image = mean + (image - mean) * (1 + draw(keys[1], settings.contrast))
    image = jnp.clip(image, 0, 1)
    # HSV saturation is 1 - least / greatest.
    greatest = image.max(axis=-1, keepdims=True)
    least = image.min(axis=-1, keepdims=True)
    spread = jnp.maximum(greatest - least, 1e-6)
    saturation = spread / jnp.maximum(greatest, 1e-6)
    factor = 1 + draw(keys[2], settings.saturation)
    factor = jnp.minimum(factor, 1 / jnp.maximum(saturation, 1e-6))
    return jnp.clip(greatest - (greatest - image) * factor, 0, 1)


def make_batch(config, mesh):
    """(images, labels, step) -> the batch of that step; it depends on nothing else."""
    size = config.input.batch_size

    def batch(images, labels, step):
        # Element g of the run is image g mod n of the permutation of its epoch.
        positions = step * size + jnp.arange(size)
        count = len(images)

        def index(position):
            epoch = stream(config.seed, "epoch", position // count)
            return jax.random.permutation(epoch, count)[position % count]

        chosen = jax.vmap(index)(positions)
        key = stream(config.seed, "augment", step)
        one = functools.partial(augment, settings=config.input)
        image, label = jax.vmap(one)(
            images[chosen], labels[chosen], jax.random.split(key, size)
        )
        return {"image": image, "label": label}

    return jax.jit(batch, out_shardings=sharding.batched(mesh))


def score(config, eval_step, variables, images, labels, mesh) -> dict:
    """mIoU and the rest of a split, by the configuration's protocol."""
    size, total = config.eval.batch_size, 0
    for start in range(0, len(images), size):
        image, label = (np.asarray(x[start : start + size]) for x in (images, labels))
        rest = size - len(image)
        image = np.pad(image, [(0, rest)] + [(0, 0)] * 3)
        label = np.pad(label, [(0, rest)] + [(0, 0)] * 2, constant_values=IGNORE)
        batch = sharding.put_batch({"image": image, "label": label}, mesh)
        total = total + np.asarray(eval_step(variables, batch)["confusion"], np.int64)
    return metrics.summarize(total, data.dataset_info(config).class_names)


def train(config, workdir: pathlib.Path, seconds: float) -> None:
    begin = time.perf_counter()
    validate(config)
    mesh = sharding.make_mesh(config.mesh)
    eval_mesh = sharding.for_batches(mesh, config.eval.batch_size)
    info = data.dataset_info(config)
    model = evaluate.create_model(config, info.num_classes)
    tx = optimizer.make_optimizer(config.optimizer, config.total_steps)

    def init(initial=None):
        key = stream(config.seed, "init", 0)
        return state.init_state(model, tx, key, initial)

    shapes, whole = jax.eval_shape(init), sharding.replicated(mesh)
    manager = checkpoint.open_manager(workdir, 1)
    restored = checkpoint.restore(manager, shapes, whole, set_aside=True)
    if restored is None:
        initial, meta = {}, {"seconds": 0.0}
        if config.init_from:
            initial = init_from.load_initial(
                config.init_from, config.init_part, shapes.variables("raw")
            )
        train_state = jax.jit(init, out_shardings=whole)(initial)
    else:
        train_state, meta = restored
    train_step = lower_train_step(config, model, tx, shapes, mesh).compile()
    eval_step = evaluate.jit_eval_step(config, model, info.num_classes, eval_mesh)
    images, labels = load(config, config.dataset.train_split, mesh)
    batches = make_batch(config, mesh)

    def evaluated(split):
        found = load(config, split, eval_mesh)
        variables = train_state.variables(config.eval.weights)
        return score(config, eval_step, variables, *found, eval_mesh)

    step, total = int(train_state.step), config.total_steps
    clock = time.perf_counter()
    while step < total and time.perf_counter() - begin < seconds:
        train_state, scalars = train_step(train_state, batches(images, labels, step))
        step += 1
        if step % config.log_every == 0 or step == total:
            loss = float(scalars["loss"])  # waits for the device
            now = time.perf_counter()
            rate = config.log_every * config.input.batch_size / (now - clock)
            left = (total - step) * config.input.batch_size / rate
            print(
                f"{step}/{total}  loss {loss:.4f}  {rate:.1f} images/s  "
                f"ETA {left / 60:.1f} min",
                flush=True,
            )
            clock = now
        if step % config.eval_every == 0 and step < total:
            print(f"step {step}  val mIoU {100 * evaluated('val')['miou']:.2f}")
            clock = time.perf_counter()
    spent = meta["seconds"] + time.perf_counter() - begin
    meta = {
        "seconds": spent,
        "config": config.to_json_best_effort(),  # this and the next for eseg_jax.load
        "classes": {"names": list(info.class_names), "colours": info.colours.tolist()},
    }
    checkpoint.save(manager, step, train_state, meta, None, wait=True)
    checkpoint.close(manager)
    if step < total:
        print(f"Stopped at step {step} of {total}; the same command goes on.")
        return
    tested = tuple(config.eval.size or images.shape[1:3])
    costs = cost.count(config.model.name, tested, info.num_classes)
    result = {
        "config": config.to_dict(),
        "name": config.model.name,
        "seed": config.seed,
        "steps": total,
        "batch_size": config.input.batch_size,
        "seconds": spent,
        "device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "tested": tested,
        "parameters": costs.deployed,
        "macs": costs.macs,
        "val": evaluated("val"),
        "test": evaluated("test"),
    }
    (workdir / "result.json").write_text(json.dumps(result, indent=2))
    for split in ("val", "test"):
        print(f"{split} mIoU {100 * result[split]['miou']:.2f}")


def tables(folder: pathlib.Path, copy: str | None) -> None:
    """Prints the runs below a folder as a table in Markdown; `copy` gets them too."""
    runs, files = {}, sorted(folder.glob("*/result.json"))
    found = [json.loads(file.read_text()) for file in files]
    if copy:
        kept = [{k: x for k, x in each.items() if k != "config"} for each in found]
        pathlib.Path(copy).write_text(json.dumps(kept, indent=1) + "\n")
    for result in found:
        key = result["name"], result["steps"], result["batch_size"], result["device"]
        runs.setdefault(key, []).append(result)
    print(
        "| network | weights | GMACs | steps x batch | device, minutes | seeds "
        "| val mIoU | test mIoU | test pixels right | paper's test mIoU |"
    )
    print("|---|---:|---:|---:|---|---:|---:|---:|---:|---|")
    for (name, steps, batch, device), results in runs.items():
        cells = []
        for split, measure in _COLUMNS:
            values = [100 * result[split][measure] for result in results]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        minutes = statistics.mean(result["seconds"] for result in results) / 60
        first = results[0]
        print(
            f"| {name} | {first['parameters']:,} | {first['macs'] / 1e9:.2f} | "
            f"{steps} x {batch} | {device}, {minutes:.0f} | {len(results)} | "
            f"{' | '.join(cells)} | {_PAPERS.get(name, '')} |"
        )


def main(argv) -> None:
    del argv
    if _TABLES.value:
        tables(pathlib.Path(_TABLES.value), _JSON.value)
        return
    job.keep_memory()
    job.keep_compiled(_CONFIG.value.compilation_cache, _WORKDIR.value)
    workdir = pathlib.Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    if (workdir / "result.json").exists():
        print(f"{workdir} is finished.")
        return
    absl_logging.set_verbosity(absl_logging.WARNING)
    train(_CONFIG.value, workdir, _SECONDS.value)


if __name__ == "__main__":
    app.run(main)
