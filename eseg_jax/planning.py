"""Compiles a mode's own step for a TPU slice, ahead of time, and says what it takes."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import os
import re
import time

import jax
import numpy as np
from jax.experimental import topologies
from ml_collections import ConfigDict

from eseg_jax import (
    evaluate,
    input,
    optimizer,
    protocols,
    pseudo_label,
    rng,
    sharding,
    state,
    tpu,
    train,
)
from eseg_jax.config import validate
from eseg_jax.models import cost

MODES = ("train", "evaluate", "pseudo_label")
# The compiler would look for a TPU, refuse if another process had loaded it, and
# complain on stderr that this machine is none.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}
_LISTED = 12  # sources of time and buffers that are kept


class PlanError(ValueError):
    """What was asked for cannot be planned."""


def slice_devices(topology: str) -> list:
    """The devices of a slice such as "v5e:2x4", to compile for.

    Raises:
      PlanError: libtpu is missing, or it or this module does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise PlanError(
            "The TPU compiler is missing: pip install libtpu (Linux on x86; no TPU is "
            "needed)."
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # the plugin raises its own types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PlanError(
            f"--topology={topology} is no slice that the compiler knows ({reason}); "
            "write the chip and the shape, as in v5e:2x4, v6e:4x4 or v5p:2x2x1."
        ) from error
    devices = list(found.devices)
    if devices[0].device_kind not in tpu.CHIPS:
        raise PlanError(
            f"--topology={topology} has chips {devices[0].device_kind!r}, whose speed "
            f"is not in eseg_jax/tpu.py; that has {', '.join(tpu.CHIPS)}."
        )
    return devices


def lower(config: ConfigDict, mode: str, mesh, size: tuple[int, int]):
    """The mode's own step for the devices of a mesh, and the images it takes."""
    dataset = input.dataset_info(config)
    model = evaluate.create_model(config, dataset.num_classes)
    tx = optimizer.make_optimizer(config.optimizer, config.total_steps)
    shapes = jax.eval_shape(
        lambda: state.init_state(model, tx, rng.stream(config.seed, "init", 0))
    )
    if mode == "train":
        batch = config.input.batch_size
        micro = batch // config.accumulate_steps
        sharding.check_batch_size(micro, mesh, "config.input.batch_size")
        return train.lower_train_step(config, model, tx, shapes, mesh), batch
    variables = shapes.variables("ema")
    if mode == "evaluate":
        batch = config.eval.batch_size
        mesh = sharding.for_batches(mesh, batch)
        sharding.check_batch_size(batch, mesh, "config.eval.batch_size")
        step = evaluate.jit_eval_step(config, model, dataset.num_classes, mesh)
        if not hasattr(step, "lower"):
            raise PlanError(
                "Images of many sizes, one at a time, are not evaluated by one "
                "program; set --config.eval.batch_size="
                f"{mesh.shape['data']} to plan one size."
            )
        label = (batch,) if input.is_classification(config) else (batch, *size)
        arguments = {
            "image": jax.ShapeDtypeStruct((batch, *size, 3), np.uint8),
            "label": jax.ShapeDtypeStruct(label, np.int32 if len(label) == 1 else "u1"),
        }
        arguments = (_placed(arguments, mesh),)
    else:
        options = config.pseudo
        batch = options.batch_size * mesh.shape["data"]
        protocol = protocols.Protocol(tuple(options.scales), options.flip)
        step = pseudo_label.jit_label_step(
            config.model.name, model, protocol, options.size_step > 1, mesh
        )
        arguments = {
            "image": jax.ShapeDtypeStruct((batch, *size, 3), np.uint8),
            "size": jax.ShapeDtypeStruct((batch, 2), np.int32),
        }
        arguments = tuple(_placed(arguments, mesh).values())
    with jax.set_mesh(mesh):
        return step.lower(variables, *arguments), batch


def _placed(batch: dict, mesh) -> dict:
    """The shapes of a batch, and where its arrays go."""
    places = sharding.of_batch(batch, mesh)
    return {name: x.update(sharding=places[name]) for name, x in batch.items()}


def image_flops(config: ConfigDict, mode: str, size: tuple[int, int]) -> float | None:
    """FLOPs of the convolutions for one image; None where they are not counted.

    Two a multiply-add; the backward pass takes twice the forward one.
    """
    if input.is_classification(config):
        return None
    name, options = config.model.name, config.model.options.to_dict()
    classes = input.dataset_info(config).num_classes
    if mode == "train":
        crop = tuple(config.input.crop)
        return 6.0 * cost.count(name, crop, classes, training=True, **options).macs
    if mode == "evaluate":
        protocol = protocols.from_config(config.eval)
        size = protocol.size or size
        if protocol.window or len(size) < 2:
            return None
    else:
        protocol = protocols.Protocol(tuple(config.pseudo.scales), config.pseudo.flip)
    macs = cost.count(name, tuple(size), classes, **options).macs
    passes = sum(scale**2 for scale in protocol.scales) * (1 + protocol.flip)
    return 2.0 * macs * passes


def plan(config: ConfigDict, mode: str, topology: str, size: tuple[int, int]) -> dict:
    """Compiles a mode's step for a slice; returns what `OUT.json` has of it.

    Raises:
      PlanError: see `slice_devices`.
      ValueError: the configuration does not go with the slice.
    """
    config = copy.deepcopy(config)
    if config.dtype == "auto":
        config.dtype = "bfloat16"  # what it means on a TPU
    validate(config)
    devices = slice_devices(topology)
    chip = tpu.CHIPS[devices[0].device_kind]
    mesh = sharding.make_mesh(config.mesh, devices)
    start = time.perf_counter()
    lowered, batch = lower(config, mode, mesh, size)
    crop = config.input.crop if mode == "train" else size
    record = {
        "model": config.model.name,
        "mode": mode,
        "topology": topology,
        "device": devices[0].device_kind,
        "chips": len(devices),
        "mesh": dict(mesh.shape),
        "batch_size": batch,
        "size": list(crop),
        "accumulate_steps": config.accumulate_steps,
        "remat": config.remat,
        "steps": config.total_steps if mode == "train" else None,
        "capacity": chip.memory,
    }
    middle = time.perf_counter()
    try:
        compiled = lowered.compile()
        found = figures(compiled, chip, record, image_flops(config, mode, size))
    except jax.errors.JaxRuntimeError as error:
        found = too_large(str(error))
        if not found:
            raise
    record["compile_seconds"] = [middle - start, time.perf_counter() - middle]
    smaller = [] if found["fits"] else advice(config, mode, mesh)
    return record | found | {"advice": smaller}


def figures(compiled, chip: tpu.Chip, record: dict, flops: float | None) -> dict:
    """What follows from the compiled program; `flops` are the model's for an image."""
    chips, batch, steps = (record[x] for x in ("chips", "batch_size", "steps"))
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    found = tpu.estimate(compiled.as_text(), chip, chips)
    rate = batch / found.total
    hbm = {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        # Of the donated state the outputs take the place.
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    return {
        "fits": True,  # or the compiler would have said so
        "hbm": hbm,
        "seconds": found.total,
        "seconds_by_source": found.seconds,
        "optimal_seconds": costs.get("optimal_seconds"),
        "instructions": found.instructions,
        "without_estimate": found.without,
        "loops_once": found.loops_once,
        "images_per_second": rate,
        "images_per_second_chip": rate / chips,
        "flops_an_image": flops,
        "compiler_flops": costs.get("flops"),
        "mfu": flops and flops * rate / chips / chip.flops,
        "hours": steps and steps * found.total / 3600,
        "collectives": found.collectives,
        "slowest": dict(itertools.islice(found.sources.items(), _LISTED)),
        "buffers": found.buffers[:_LISTED],
    }


def too_large(message: str) -> dict:
    """What the compiler says when a program does not fit; {} of other errors."""
    used = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", message)
    if not used:
        return {}
    unit = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    buffers = re.findall(
        r"Size: ([\d.]+)([KMGT])\s(?:.*\n)*?\s*Operator: op_name=\"([^\"]*)\"(?:.*\n)*?"
        r"\s*Shape: (\S+)",
        message,
    )
    return {
        "fits": False,
        "needed": float(used[1]) * unit[used[2]],
        "buffers": [
            (float(size) * unit[letter], shape, name)
            for size, letter, name, shape in buffers
        ][:_LISTED],
    }


def advice(config: ConfigDict, mode: str, mesh) -> list[str]:
    """Flags that make a step smaller."""
    data = mesh.shape["data"]
    if mode == "evaluate":
        return [f"--config.eval.batch_size={max(1, config.eval.batch_size // 2)}"]
    if mode == "pseudo_label":
        smaller = max(1, config.pseudo.batch_size // 2)
        return [f"--config.pseudo.batch_size={smaller}", "--config.pseudo.flip=false"]
    found = []
    if config.remat == "none":
        found.append("--config.remat=blocks")
    batch, parts = config.input.batch_size, config.accumulate_steps
    if batch % (2 * parts * data) == 0:
        found.append(
            f"--config.accumulate_steps={2 * parts} (batch normalisation sees less)"
        )
    found.append(f"--config.mesh.spatial={2 * config.mesh.spatial}")
    if batch > data:
        found.append(f"--config.input.batch_size={max(data, batch // 2)}")
    return [*found, "a slice of more chips"]


def fastest(records: list[dict]) -> dict | None:
    """Of those that fit the one with most images a second; None if none fits."""
    fitting = [record for record in records if record.get("fits")]
    return max(fitting, key=lambda x: x["images_per_second"], default=None)
