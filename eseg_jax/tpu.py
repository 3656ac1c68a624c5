"""TPU chips in numbers, and what a compiled program will take on one of them."""

from __future__ import annotations

import collections
import dataclasses
import math
import re

from eseg_jax import hlo

GIB = 2**30
# They name, regroup or reinterpret what others compute, or copy beside the compute.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("copy-start", "copy-done", "slice-start", "slice-done", "async-done"),
    *("async-update", "partition-id", "replica-id", "opt-barrier", "domain"),
    *(f"{kind}-done" for kind in hlo.COLLECTIVES),
}
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "Sharding")
# Cycles of our kernels for 128 points of 128 channels: the length of their inner loops
# in the compiler's listing, see benchmarks/warp.md.
_KERNELS = {"warp_forward": 277, "warp_backward": 677}
_HOP = 1e-6  # seconds from a chip to its neighbour (our choice)
_SMALL = 2**16  # bytes below which an instruction without an estimate does not matter


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them.

    Attributes:
      memory: bytes of HBM that a program may use.
      flops: bfloat16 peak, a second.
      bandwidth: bytes of HBM a second.
      clock: cycles a second: the peak over what the matrix units do in a cycle.
      links: bytes a second, one way, over all links to other chips.
    """

    memory: float
    flops: float
    bandwidth: float
    clock: float
    links: float


# By JAX's device kind; the rates are those of cloud.google.com/tpu/docs, the memory is
# what the compiler's own message calls the limit.
CHIPS = {
    # Half of a chip: the compiler's devices are its two cores.
    "TPU v4": Chip(15.5 * GIB, 137.5e12, 614e9, 1.05e9, 1200e9 / 8),
    "TPU v5 lite": Chip(15.75 * GIB, 197e12, 819e9, 1.5e9, 1600e9 / 8),
    "TPU v5": Chip(95.74 * GIB, 459e12, 2765e9, 1.75e9, 4800e9 / 8),
    "TPU v6 lite": Chip(31.25 * GIB, 918e12, 1640e9, 1.75e9, 3584e9 / 8),
}


@dataclasses.dataclass
class Estimate:
    """What one run of a program takes on each chip.

    Attributes:
      seconds: by where the figure is from: "compiler", its cycles over the clock;
        "memory", bytes over the bandwidth, where that is longer or all there is;
        "kernels", our own; "links", collectives.
      instructions, without: those that take time, and those of them without cycles.
      loops_once: runs of loops whose trips were not found: their bodies count once.
      collectives: {kind: [count, bytes]}.
      sources: seconds by the `op_name` of the source.
      buffers: (bytes, shape, op_name) of the largest results, the largest first.
    """

    seconds: dict[str, float]
    instructions: int
    without: int
    loops_once: int
    collectives: dict[str, list[int]]
    sources: dict[str, float]
    buffers: list[tuple[int, str, str]]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def estimate(text: str, chip: Chip, devices: int) -> Estimate:
    """Adds up a compiled program, `jax.stages.Compiled.as_text()`.

    An instruction takes the compiler's cycles, but no less than its bytes of HBM do at
    full bandwidth. Copies between HBM and VMEM that run beside the compute, as the
    compiler arranges them, take nothing; collectives count whole, as if nothing ran
    beside them.
    """
    program = hlo.Program(text)
    seconds = dict.fromkeys(("compiler", "memory", "kernels", "links"), 0.0)
    sources: collections.Counter[str] = collections.Counter()
    collectives: dict[str, list[int]] = {}
    buffers = {}
    instructions = without = 0
    for each, computation, times in program.run():
        kind = each.collective
        if kind:
            size = _moved(each)
            found = collectives.setdefault(kind, [0, 0])
            found[0] += times
            found[1] += times * size
            share = "links"
            time = _link_seconds(kind, size, _group(each, devices), chip)
        elif each.opcode in _FREE or any(x in each.attributes for x in _FREE_CALLS):
            continue
        elif kernel := _kernel_cycles(each, program.computations[computation]):
            share, time = "kernels", kernel / chip.clock
        else:
            size = program.hbm_bytes(each, computation)
            cycles = each.cycles
            instructions += times
            without += times * (cycles is None and size > _SMALL)
            time = max((cycles or 0) / chip.clock, size / chip.bandwidth)
            share = "compiler" if time * chip.clock <= (cycles or 0) else "memory"
        seconds[share] += times * time
        sources[each.op_name] += times * time
        size = max(hlo.sizes_of(each.result, hbm=True), default=0)
        if size:
            buffers[computation, each.name] = (size, each.result, each.op_name)
    return Estimate(
        seconds,
        instructions,
        without,
        program.loops_once,
        collectives,
        dict(sources.most_common()),
        sorted(buffers.values(), reverse=True)[:_BUFFERS],
    )


_BUFFERS = 20


def _moved(each: hlo.Instruction) -> int:
    """Bytes of the result of a collective; one that overlaps names its input too."""
    sizes = hlo.sizes_of(each.result)
    if each.opcode.endswith("-start") and not each.opcode.startswith("all-reduce"):
        return max(sizes)
    return sum(sizes)


def _group(each: hlo.Instruction, devices: int) -> int:
    """How many devices share in a collective."""
    groups = re.search(
        r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\]|mesh\[([^\]]*)\] \{([^}]*)\})",
        each.attributes,
    )
    if not groups:
        return devices
    if groups[1]:
        return len(groups[1].split(","))
    if groups[2]:
        return int(groups[2])
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", groups[3]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", groups[4]))


def _link_seconds(kind: str, size: int, group: int, chip: Chip) -> float:
    """Of a ring through half of the links: a small slice's edges lack the others."""
    rounds = {"all-reduce": 2, "collective-permute": 1}.get(kind, 1)
    share = 1 if kind == "collective-permute" else (group - 1) / group
    hops = 1 if kind == "collective-permute" else group // 2
    return rounds * (share * size / (chip.links / 2) + hops * _HOP)


def _kernel_cycles(each: hlo.Instruction, computation) -> float | None:
    """Of one of `ops/warp_tpu.py`: the compiler gives none for a kernel."""
    if 'custom_call_target="tpu_custom_call"' not in each.attributes:
        return None
    name = next((x for x in _KERNELS if x in each.op_name + each.name), None)
    if name is None:
        return None
    types = [each.result, *(computation[x].result for x in each.operands)]
    shapes = re.findall(r"bf16\[(\d+),(\d+),(\d+)\]", " ".join(types))
    images, points, channels = map(int, shapes[0])
    return images * points / 128 * math.ceil(channels / 128) * _KERNELS[name]
