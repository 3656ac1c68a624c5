"""What the program of a training step on an NVIDIA H200 holds: no GPU, no times.

  pip install -c constraints.txt -e '.[cuda]'
  PYTHONPATH=. python benchmarks/gpu_programs.py [NAMES…] [--json=FILE]

Compiles each configuration's step for one GPU ahead of time, in bfloat16, with the
paper's crop and batch, and prints a table: its memory, the kernels that it starts, the
bytes that they read and write, and the multiply-adds of its matrix products in float32,
which at full precision have no tensor cores. XLA's choice of algorithms needs the GPU
and is left out, so that kernels and memory will differ there; benchmarks/training.md
has the table and what it led to.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import pathlib
import re
import time

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0"

import jax  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from eseg_jax import hlo, planning, sharding  # noqa: E402
from eseg_jax.config import validate  # noqa: E402

NAMES = ("eseg_lite_s", "eseg_s", "sfnet_resnet18", "dfanet_a", "frfnet")
# NVIDIA's figures of the H200 SXM and of CUDA's compute capability 9.0.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 150000000000
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H200"
"""
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")


def compile_step(name: str, devices) -> dict:
    config = importlib.import_module(f"configs.{name}").get_config()
    config.dtype = "bfloat16"
    validate(config)
    mesh = sharding.make_mesh(config.mesh, devices)
    start = time.perf_counter()
    lowered, batch = planning.lower(config, "train", mesh, tuple(config.input.crop))
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    return {
        "name": name,
        "batch_size": batch,
        "crop": list(config.input.crop),
        "compile_seconds": time.perf_counter() - start,
        "bytes": memory.temp_size_in_bytes + memory.argument_size_in_bytes,
        **contents(compiled.as_text()),
    }


def contents(text: str) -> dict:
    """Counts the kernels of a program, their bytes and float32 products."""
    program = hlo.Program(text)
    found = {"kernels": 0, "convolution_bytes": 0, "other_bytes": 0}
    for each, computation, times in program.run():
        if each.opcode in _FREE:
            continue
        kind = "convolution" if "__cudnn$conv" in each.attributes else "other"
        found["kernels"] += times
        found[f"{kind}_bytes"] += times * program.hbm_bytes(each, computation)
    found["float32_macs"] = sum(
        _macs(each, computation)
        for computation in program.computations.values()
        for each in computation.values()
        if each.opcode == "dot" and each.result.startswith("f32")
    )
    return found


def _macs(dot: hlo.Instruction, computation) -> int:
    """Of a product of float32 matrices; 0 of others, whose sums alone are float32."""
    left = computation[dot.operands[0]].result
    if not left.startswith("f32"):
        return 0
    summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)[1]
    sizes = [_dims(left)[int(axis)] for axis in summed.split(",")]
    return math.prod(_dims(dot.result)) * math.prod(sizes)


def _dims(shape: str) -> list[int]:
    return [int(x) for x in re.search(r"\[([\d,]*)\]", shape)[1].split(",") if x]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    topology = topologies.get_topology_desc(
        platform="cuda", topology="1x1x1", target_config=H200
    )
    print(
        "| network | images | GB | kernels | GB moved by convolutions | by the rest "
        "| float32 GMACs |\n|---|---|---:|---:|---:|---:|---:|"
    )
    records = []
    for name in args.names:
        found = compile_step(name, list(topology.devices))
        records.append(found)
        height, width = found["crop"]
        print(
            f"| {name} | {found['batch_size']} x {height}x{width} "
            f"| {found['bytes'] / 1e9:.1f} | {found['kernels']:,} "
            f"| {found['convolution_bytes'] / 1e9:.1f} "
            f"| {found['other_bytes'] / 1e9:.1f} | {found['float32_macs'] / 1e9:.1f} |",
            flush=True,
        )
        jax.clear_caches()
        if args.json:
            args.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
