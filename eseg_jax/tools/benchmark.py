"""Times the inference of networks, and says under which conditions.

    python -m eseg_jax.tools.benchmark [names…] [--size=512x1024] [--batch=1]
        [--precision=float32|bfloat16] [--end=logits|labels] [--unfolded] [--host_copy]
        [--backend=jax|onnxruntime|litert|saved_model|torch] [--compile] [--seconds=3]
        [--no_floor] [--json=FILE]

A name may be a pattern, 'sfnet_*'; without any it is every network. Weights are random:
time does not depend on them. Backends other than jax run an export of the network, made
for the occasion, in its own runtime; `torch` needs a checkout and times the same
network of benchmarks/peers, channels last, with --compile after torch.compile.

Images are normalised and on the device. A call is timed from its start to its finished
result, one after the other; throughput is that of calls which do not wait for each
other. The floor is what the same device would need at least: for each convolution the
larger of its multiply-adds over the measured rate of a large matrix product, and its
bytes (input, kernel and output once) over the measured rate of a copy.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eseg_jax import job, models
from eseg_jax.export import formats, runtimes
from eseg_jax.models import cost
from eseg_jax.models.folding import fold
from eseg_jax.ops.most_likely import most_likely
from eseg_jax.state import init_variables
from eseg_jax.tools.summary import matching, parse_size
from eseg_jax.tools.terminal import progress
from eseg_jax.trees import map_with_names

_WARM_UP_CALLS = 10
_WARM_UP_SECONDS = 1.0
# A matrix product and a copy that are large for any device, and small enough for it.
_PRODUCT, _COPY = 2048, 2**24


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Under which conditions a network is timed.

    Attributes:
      backend: a key of `BACKENDS`.
      precision: compute type; weights and logits are float32 with "jax".
      size: (height, width) of the images.
      batch: images in a call.
      classes: channels of the logits.
      folded: whether batch normalisation is part of the convolutions.
      end: "logits" at the network's stride, or "labels", which enlarges them to the
        size of the image and takes the largest.
      host_copy: whether the result is copied to the host.
      compiled: torch.compile; jax always compiles.
    """

    backend: str = "jax"
    precision: str = "float32"
    size: tuple[int, int] = (512, 1024)
    batch: int = 1
    classes: int = 19
    folded: bool = True
    end: str = "labels"
    host_copy: bool = False
    compiled: bool = False


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A network that is ready to be timed.

    Attributes:
      start: begins a call and returns its result, perhaps before that is finished.
      finish: waits for a result, and copies it to the host if that is asked for.
      device: what it runs on, in words.
      versions: of the libraries.
      compile_seconds: tracing and compiling, where that is apart from running.
    """

    start: Callable[[], Any]
    finish: Callable[[Any], Any]
    device: str
    versions: dict[str, str]
    compile_seconds: float | None = None

    def __call__(self) -> Any:
        return self.finish(self.start())


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


# The backends that run an export: its format, and the module of its runtime.
_EXPORTS = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "litert": ("litert", "ai_edge_litert"),
    "saved_model": ("saved_model", "tensorflow"),
}


def prepare_export(name: str, protocol: Protocol, **options) -> Prepared:
    """Our network, exported to a temporary folder and loaded by its own runtime."""
    form, runtime = _EXPORTS[protocol.backend]
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
    **dict.fromkeys(_EXPORTS, prepare_export),
}


def measure(prepared: Prepared, seconds: float) -> dict[str, float]:
    """Latency and throughput of a network, each timed for about `seconds`.

    At least ten calls or a second warm it up, and at least three are timed.
    """
    begun, calls = time.perf_counter(), 0
    while calls < _WARM_UP_CALLS and time.perf_counter() - begun < _WARM_UP_SECONDS:
        prepared()
        calls += 1
    times, begun = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        prepared()
        times.append(time.perf_counter() - start)
    begun = time.perf_counter()
    # Two under way at a time: more only fill the memory.
    waiting = prepared.start()
    for _ in times[1:]:
        following = prepared.start()
        prepared.finish(waiting)
        waiting = following
    prepared.finish(waiting)
    total = time.perf_counter() - begun
    return {
        "warm_up_calls": calls,
        "calls": len(times),
        "median_ms": 1e3 * statistics.median(times),
        "p95_ms": 1e3 * float(np.percentile(times, 95)),
        "min_ms": 1e3 * min(times),
        "calls_per_second": len(times) / total,
    }


def device_rates(precision: str) -> dict[str, float]:
    """Multiply-adds and bytes per second that the first device reaches."""
    dtype = jnp.dtype(precision)

    def least(function, x):
        function = jax.jit(function)
        times = []
        for _ in range(6):
            start = time.perf_counter()
            jax.block_until_ready(function(x))
            times.append(time.perf_counter() - start)
        return min(times[1:])

    square = jnp.ones((_PRODUCT, _PRODUCT), dtype)
    numbers = jnp.ones(_COPY, dtype)
    return {
        "macs_per_second": _PRODUCT**3 / least(lambda x: x @ x, square),
        "bytes_per_second": 2 * numbers.nbytes / least(lambda x: x + 1, numbers),
    }


def floor(
    name: str, protocol: Protocol, rates: dict[str, float], **options
) -> dict[str, float]:
    """The least milliseconds that the convolutions of a call can take.

    {"floor_ms", "macs_ms", "bytes_ms"}: the sum over the layers of the larger bound,
    and of each of the two. The rest of the network counts as free.
    """
    itemsize, batch = jnp.dtype(protocol.precision).itemsize, protocol.batch
    total = macs = moved = 0.0
    layers = cost.layers(name, protocol.size, protocol.classes, **options)
    for layer in layers.values():
        compute = batch * layer.macs / rates["macs_per_second"]
        numbers = batch * layer.activations + layer.weights
        move = itemsize * numbers / rates["bytes_per_second"]
        macs, moved, total = macs + compute, moved + move, total + max(compute, move)
    return {"floor_ms": 1e3 * total, "macs_ms": 1e3 * macs, "bytes_ms": 1e3 * moved}


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


def describe(protocol: Protocol, device: str, versions: dict[str, str]) -> str:
    """The conditions of a table, for its head."""
    network = "batch normalisation folded" if protocol.folded else "not folded"
    end = {
        "logits": "to logits at the network's stride",
        "labels": "with enlargement to the image's size and argmax",
    }[protocol.end]
    copy = "copied to the host" if protocol.host_copy else "left on the device"
    backend = ", ".join(f"{k} {v}" for k, v in versions.items())
    if protocol.backend == "torch":
        backend += ", compiled" if protocol.compiled else ", eager"
    return (
        f"{device}; {backend}; {protocol.precision}; {protocol.batch} x "
        f"{protocol.size[0]}x{protocol.size[1]}, {protocol.classes} classes; "
        f"{network}; {end}; result {copy}."
    )


_LINE = "{:<24} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}"
_HEAD = (
    "model",
    "median ms",
    "p95",
    "least",
    "images/s",
    "floor ms",
    "x floor",
    "MACs G",
)


def rows(
    names: list[str], protocol: Protocol, seconds: float, with_floor: bool
) -> Iterator[dict[str, Any]]:
    """Times the networks one after the other."""
    rates = device_rates(protocol.precision) if with_floor else {}
    for name in names:
        prepared = BACKENDS[protocol.backend](name, protocol)
        row = {
            "name": name,
            "protocol": dataclasses.asdict(protocol),
            "device": prepared.device,
            "versions": prepared.versions,
            "compile_seconds": prepared.compile_seconds,
            **measure(prepared, seconds),
        }
        row["images_per_second"] = protocol.batch * row["calls_per_second"]
        row["macs"] = cost.count(name, protocol.size, protocol.classes).macs
        if with_floor:
            row |= rates | floor(name, protocol, rates)
        yield row


def main(argv: list[str] | None = None) -> None:
    """Runs the command; `argv` are its arguments, None those of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m eseg_jax.tools.benchmark",
        description=__doc__.splitlines()[0],
    )
    add = parser.add_argument
    add("names", nargs="*", help="models or patterns; all without any")
    add("--backend", choices=tuple(BACKENDS), default="jax")
    add("--size", type=parse_size, metavar="HxW", default=(512, 1024))
    add("--batch", type=int, default=1, help="images in a call")
    add("--classes", type=int, default=19, help="of the logits")
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    add("--end", choices=("logits", "labels"), default="labels", help="where calls end")
    add("--unfolded", action="store_true", help="leave batch normalisation as it is")
    add("--host_copy", action="store_true", help="copy the result to the host")
    add("--compile", action="store_true", help="torch.compile")
    add("--seconds", type=float, default=3.0, help="of timing, for each network")
    add("--no_floor", action="store_true", help="do not measure the device's rates")
    add("--json", metavar="FILE", help="write the rows there, too")
    args = parser.parse_args(argv)
    for name in ("batch", "classes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)} must be 1 or more.")
    if args.compile and args.backend != "torch":
        parser.error("--compile is for --backend=torch; jax always compiles.")
    exported = args.backend in _EXPORTS
    if exported and (args.unfolded or args.precision != "float32"):
        parser.error(
            f"--backend={args.backend} runs an export, which is float32 with batch "
            "normalisation folded; leave out --unfolded and --precision."
        )
    protocol = Protocol(
        args.backend,
        args.precision,
        args.size,
        args.batch,
        args.classes,
        not args.unfolded,
        args.end,
        args.host_copy or exported,  # these runtimes know no other result
        args.compile,
    )
    job.keep_memory()
    try:
        names = [name for pattern in args.names for name in matching(pattern)]
        names = names or list(models.names())
        done = []
        table = rows(names, protocol, args.seconds, not args.no_floor)
        for row in progress(table, len(names), "networks"):
            if not done:
                print(describe(protocol, row["device"], row["versions"]))
                print(_LINE.format(*_HEAD))
            done.append(row)
            _print_row(row)
            if args.json:  # after each: a long table may be stopped
                pathlib.Path(args.json).write_text(json.dumps(done, indent=2) + "\n")
    except ValueError as error:
        parser.error(str(error))


def _print_row(row: dict[str, Any]) -> None:
    floor_ms = row.get("floor_ms")
    print(
        _LINE.format(
            row["name"],
            *(f"{row[key]:.1f}" for key in ("median_ms", "p95_ms", "min_ms")),
            f"{row['images_per_second']:.2f}",
            "-" if floor_ms is None else f"{floor_ms:.1f}",
            "-" if floor_ms is None else f"{row['median_ms'] / floor_ms:.1f}",
            f"{row['macs'] / 1e9:.2f}",
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
