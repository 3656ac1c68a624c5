"""Networks made ready to be timed: jitted, exported to other runtimes, in PyTorch."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import math
import os
import pathlib
import platform
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eseg_jax import models
from eseg_jax.export import formats, runtimes
from eseg_jax.models.folding import fold
from eseg_jax.ops.most_likely import most_likely
from eseg_jax.speed.measure import Prepared, Protocol
from eseg_jax.state import init_variables
from eseg_jax.trees import map_with_names

# Those that run an export: its format, and the module of its runtime.
EXPORTS = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "litert": ("litert", "ai_edge_litert"),
    "saved_model": ("saved_model", "tensorflow"),
}


def prepare_jax(name: str, protocol: Protocol, **options) -> Prepared:
    """Our network, compiled for the first device; `options` override the variant's."""
    model = models.create(
        name, protocol.classes, jnp.dtype(protocol.precision), **options
    )
    variables = random_variables(model)
    if protocol.folded:
        variables = fold(model, variables)

    def network(variables, images):
        logits = model.apply(variables, images, train=False)["logits"]
        if protocol.end == "logits":
            return logits
        logits = models.enlarge(model)(logits, protocol.size)
        return most_likely(logits)

    # On the device, so that a call copies nothing.
    variables, images = jax.device_put((variables, _images(protocol)))
    begun = time.perf_counter()
    # The weights are arguments: as constants they would be folded at compile time.
    compiled = jax.jit(network).lower(variables, images).compile()
    seconds = time.perf_counter() - begun
    device = jax.devices()[0]
    return Prepared(
        functools.partial(compiled, variables, images),
        np.asarray if protocol.host_copy else jax.block_until_ready,
        _host() if device.platform == "cpu" else device.device_kind,
        {"jax": jax.__version__},
        seconds,
    )


def prepare_torch(name: str, protocol: Protocol) -> Prepared:
    """The same network in PyTorch, channels last, from benchmarks/ of a checkout."""
    folder = pathlib.Path(__file__).parents[2] / "benchmarks"
    if not (folder / "peers").is_dir():
        raise ValueError(
            "--backend=torch times the networks of benchmarks/peers, which only a "
            "checkout has; run it from one."
        )
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise ValueError(
            "--backend=torch needs PyTorch; install torch or use --backend=jax."
        ) from None
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    peers = importlib.import_module("peers")
    layers = importlib.import_module("peers.layers")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = peers.create(name, protocol.classes).eval()
    if protocol.folded:
        network = layers.fold(network)
    network = network.to(device, memory_format=torch.channels_last)

    def labels(images):
        logits = network(images)["logits"]
        if protocol.end == "logits":
            return logits
        logits = layers.resize(logits, images, network.align_corners)
        return logits.argmax(1).to(torch.uint8)

    call = labels
    if protocol.compiled:
        config = importlib.import_module("torch._inductor.config")
        config.freezing = True
        torch.compiler.reset()  # after eight networks it would stop compiling
        call = torch.compile(labels, dynamic=False)
    # Channels last already: ours, seen with the axes in another order.
    images = torch.from_numpy(_images(protocol)).permute(0, 3, 1, 2).to(device)
    autocast = contextlib.nullcontext()
    if protocol.precision != "float32":
        dtype = getattr(torch, protocol.precision)
        autocast = torch.autocast(device, dtype)

    def start():
        with torch.inference_mode(), autocast:
            return call(images)

    def finish(result):
        if protocol.host_copy:
            return result.cpu().numpy()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    begun = time.perf_counter()
    finish(start())
    return Prepared(
        start,
        finish,
        torch.cuda.get_device_name() if device == "cuda" else _host(),
        {"torch": torch.__version__},
        time.perf_counter() - begun if protocol.compiled else None,
    )


def prepare_export(name: str, protocol: Protocol, **options) -> Prepared:
    """Our network, exported to a temporary folder and loaded by its own runtime."""
    form, runtime = EXPORTS[protocol.backend]
    model, info = models.create(name, protocol.classes, **options), models.info(name)
    export = formats.Options(form, protocol.size, protocol.batch, output=protocol.end)
    meta = {"model": name, "mean": info.mean, "std": info.std}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        variables = random_variables(model)
        path = formats.write(model, variables, export, folder, meta=meta)
        run = runtimes.load_runtime(path, _cores())
    seconds = time.perf_counter() - begun
    images = _images(protocol)
    package, *_ = importlib.metadata.packages_distributions()[runtime]
    return Prepared(
        lambda: run(images),
        lambda result: result,
        _host(),
        {package: importlib.metadata.version(package)},
        seconds,
    )


BACKENDS = {
    "jax": prepare_jax,
    "torch": prepare_torch,
    **dict.fromkeys(EXPORTS, prepare_export),
}


def random_variables(model) -> dict[str, Any]:
    """Variables of a network as training might leave them, without compiling anything.

    Statistics and scalars are drawn too, so that a comparison of two libraries would
    show one that is left out.
    """
    rng = np.random.default_rng(0)

    def draw(name, x):
        if name.endswith("kernel"):
            deviation = math.sqrt(1 / math.prod(x.shape[:-1]))
            return rng.normal(0, deviation, x.shape).astype(np.float32)
        if name.endswith(("scale", "var", "weights")):
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        return rng.normal(0, 0.1, x.shape).astype(np.float32)

    shapes = jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))
    return map_with_names(draw, shapes)


def _images(protocol: Protocol) -> np.ndarray:
    shape = (protocol.batch, *protocol.size, 3)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def _host() -> str:
    """The processor in words."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    cores = _cores()
    return f"{model}, {cores} core{'s' if cores != 1 else ''}"


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
