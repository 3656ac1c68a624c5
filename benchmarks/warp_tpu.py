"""Estimates `bilinear_warp` and SFNet's train step on a TPU v5e, without one.

  python benchmarks/warp_tpu.py
  python benchmarks/warp_tpu.py --network=sfnet_resnet18

Programs are compiled ahead of time (`pip install libtpu`) for v5e. The first form
prints a Markdown table of the warp on one chip beside four gathers with automatic
derivative. The second compiles the train step for the eight chips of v5e:2x4 and prints
memory, collectives and time of one chip.

No time is measured. It is the sum, at 1.5 GHz, over the compiled program's
instructions: the compiler's `estimated_cycles` where it gives one, which it does not
for gathers, scatters and Pallas kernels. For these it is the length of their loops in
the compiler's own listing of the final instruction bundles, one cycle each, times their
trips. Waiting for memory is not in it, nor are the all-reduces.
"""

import argparse
import collections
import glob
import os
import re
import tempfile

os.environ.update(
    TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", JAX_PLATFORMS="cpu"
)
FOLDER = tempfile.TemporaryDirectory()
os.environ["LIBTPU_INIT_ARGS"] = (
    f"--xla_jf_dump_to={FOLDER.name} --xla_jf_dump_llo_text=true "
    "--xla_jf_dump_llo_pass_label_regex=.*final_bundles.*"
)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from eseg_jax import losses, models, rng, sharding, state, steps  # noqa: E402
from eseg_jax.ops import warp  # noqa: E402

CLOCK = 1.5e9
SHAPES = ((2, 64, 128, 64), (2, 64, 128, 128))


def compile_for(mesh, function, arguments, **options):
    """Compiles under the mesh and forgets the listings of earlier programs."""
    for path in glob.glob(f"{FOLDER.name}/*"):
        os.remove(path)
    with jax.set_mesh(mesh):
        return jax.jit(function, **options).lower(*arguments).compile()


def loops(name):
    """Bundles of each loop of an instruction, inner ones apart, and its first trips."""
    paths = glob.glob(f"{FOLDER.name}/*-{name}-*-final_bundles.txt")
    (path, *_) = [x for x in paths if "schedule" not in x]
    counts, open_loops = [0], [0]
    with open(path) as file:
        text = file.read()
    for label, depth, body in re.findall(
        r"^ *0?x?[0-9a-f]+ +([A-Z]{2})?:? *:? *((?:> *)*)\{(.?)", text, re.MULTILINE
    ):
        depth = depth.count(">")
        if label == "LB":
            del open_loops[depth:]
            counts.append(0)
            open_loops.append(len(counts) - 1)
        if body != "}":
            del open_loops[depth + 1 :]
        counts[open_loops[-1]] += 1
    bounds = re.search(r"iteration_bounds: \((\d+)", text)
    return counts, int(bounds[1]) if bounds else None


def kernel_cycles(name, line):
    """Of a kernel of ops/warp_tpu.py: its loops in order, and the trips of each."""
    shapes = re.findall(r"bf16\[([\d,]+)\]", line)
    sizes = [tuple(map(int, shape.split(","))) for shape in shapes]
    n, h, w, c = next(size for size in sizes if len(size) == 4)
    _, points, _ = next(size for size in sizes if len(size) == 3)
    images = n * max(1, c // 128)
    table = ((h + 1) * (w + 8) + 16) // 8
    tiles = images * points // min(1024, points)
    main = images * points // 128
    trips = [1, tiles, images * table, images * h, main]
    if "backward" in name:
        trips[4:] = [2 * images * table] * 2 + [main, images * h]
    counts, _ = loops(name)
    if len(counts) != len(trips):  # a short loop was unrolled: count the points alone
        return max(counts) * main
    return sum(np.multiply(counts, trips))


def cycles(text):
    """Of a compiled program's instructions, by kind."""
    total = collections.Counter()
    for line in text[text.index("\nENTRY") :].splitlines():
        match = re.match(r" +(?:ROOT )?%([\w.-]+) = ", line)
        if not match:
            continue
        name = match[1]
        given = re.search(r'"estimated_cycles":"(\d+)"', line)
        if "tpu_custom_call" in line:
            total["kernels"] += kernel_cycles(
                name, line.split("frontend_attributes")[0]
            )
        elif given:
            total["other"] += int(given[1])
        elif re.match(r"(gather|scatter)\w*fusion", name) and "fusion(" in line:
            # Equal instructions are listed once.
            counts, trips = loops(re.sub(r"\.\d+$", "", name) + "*")
            total[name.split("_")[0]] += max(counts) * trips
    return total


def print_warps(topology):
    mesh = sharding.make_mesh({"data": 1}, topology.devices[:1])
    print("| n, h, w, c | | forward | x | forward + backward | x |")
    print("|---|---|---|---|---|---|")
    for n, h, w, c in SHAPES:
        arguments = [
            jax.ShapeDtypeStruct((n, h, w, c), jnp.bfloat16),
            jax.ShapeDtypeStruct((n, 2 * h, 2 * w, 2), jnp.float32),
            jax.ShapeDtypeStruct((n, 2 * h, 2 * w, c), jnp.bfloat16),
        ]
        baseline = None
        for name, function in (
            ("four gathers", warp.bilinear_warp_reference),
            ("eseg_jax", warp.bilinear_warp),
        ):

            def both(features, grid, cotangent, function=function):
                output, pull = jax.vjp(function, features, grid)
                return output, *pull(cotangent)

            split = sharding.batched(mesh)
            times = []
            for call, count in ((function, 2), (both, 3)):
                compiled = compile_for(
                    mesh,
                    call,
                    arguments[:count],
                    in_shardings=split,
                    out_shardings=split,
                )
                total = cycles(compiled.as_text())
                times.append(sum(total.values()) / CLOCK * 1e6)
            baseline = baseline or times
            cells = [
                f"{time:.0f} | {base / time:.1f}"
                for time, base in zip(times, baseline, strict=True)
            ]
            print(f"| {n}, {h}, {w}, {c} | {name} | {' | '.join(cells)} |", flush=True)


def print_network(topology, name, batch_size, size):
    mesh = sharding.make_mesh({"data": -1}, topology.devices)
    whole, split = sharding.replicated(mesh), sharding.batched(mesh)
    model = models.create(name, 19, jnp.bfloat16)
    tx = optax.sgd(0.01, momentum=0.9)
    shapes = jax.eval_shape(
        lambda: state.init_state(model, tx, rng.stream(0, "init", 0))
    )

    def loss(outputs, labels):
        return losses.segmentation_loss(
            outputs,
            labels,
            ohem={"threshold": 0.7, "min_kept_fraction": 0.1},
            aux_weights=dict.fromkeys(outputs["aux"], 0.4),
        )

    info = models.info(name)
    step = steps.make_train_step(
        model, tx, loss, mean=info.mean, std=info.std, seed=0, ema_decay=0.99
    )
    shape = (batch_size, size, size)
    batch = {
        "image": jax.ShapeDtypeStruct((*shape, 3), np.uint8),
        "label": jax.ShapeDtypeStruct(shape, np.uint8),
    }
    compiled = compile_for(
        mesh,
        step,
        (shapes, batch),
        in_shardings=(whole, split),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
    text, memory = compiled.as_text(), compiled.memory_analysis()
    collectives = re.findall(
        r"(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)"
        r"(?:-start)?\(",
        text,
    )
    print(f"{name}, {batch_size} images of {size}x{size} on {mesh.size} chips, a chip:")
    print(f"memory {memory.peak_memory_in_bytes / 2**30:.2f} GiB")
    print(f"collectives {dict(collections.Counter(collectives))}")
    seconds = {kind: count / CLOCK for kind, count in cycles(text).items()}
    parts = ", ".join(f"{kind} {value:.4f}" for kind, value in seconds.items())
    print(f"seconds {sum(seconds.values()):.4f}: {parts}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", help="a name of eseg_jax.models: its train step")
    parser.add_argument("--batch_size", type=int, default=16, help="of all chips")
    parser.add_argument("--size", type=int, default=1024, help="of the crops")
    args = parser.parse_args()
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
    if args.network:
        print_network(topology, args.network, args.batch_size, args.size)
    else:
        print_warps(topology)


if __name__ == "__main__":
    main()
