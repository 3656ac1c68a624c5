"""Reads a compiled TPU program: what runs how often, how long, over how many bytes.

The text of `jax.stages.Compiled.as_text()` has, for most instructions, the cycles that
the compiler expects. Its own total, `cost_analysis()["optimal_seconds"]`, is negative
for many programs with gathers and counts the body of a loop once; here loops count as
often as they run, and what has no estimate is named.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_BITS = {"pred": 8, "bf16": 16, "token": 0}
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = result opcode(operands), attributes`."""

    name: str
    result: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def cycles(self) -> int | None:
        match = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(match[1]) if match else None

    @property
    def op_name(self) -> str:
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    def called(self, *keys: str) -> list[str]:
        """Names of the computations that an attribute such as body= names."""
        found = []
        for key in keys:
            for one, many in re.findall(
                rf"\b{key}=(?:%([\w.-]+)|\{{([^}}]*)\}})", self.attributes
            ):
                found += [one] if one else re.findall(r"%([\w.-]+)", many)
        return found

    @property
    def collective(self) -> str | None:
        """Its kind; None for other instructions, and for the -done of one."""
        kind = self.opcode.removesuffix("-start")
        return kind if kind in COLLECTIVES else None


class Program:
    """The computations of a module: lists of instructions by name."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.roots: dict[str, Instruction] = {}
        self.entry = ""
        self.loops_once = 0  # loops met by `run` whose trips are not seen
        current = None
        for line in text.splitlines():
            head = re.match(r"(ENTRY )?%([\w.-]+) \(.*\{$", line)
            if head:
                current = head[2]
                self.computations[current] = {}
                if head[1]:
                    self.entry = current
            elif current and (found := _instruction(line)):
                self.computations[current][found.name] = found
                if line.lstrip().startswith("ROOT "):
                    self.roots[current] = found

    def run(
        self, computation: str | None = None, times: int = 1
    ) -> Iterator[tuple[Instruction, str, int]]:
        """(instruction, its computation, how often it runs) of all that runs.

        Of the branches of a condition the longest counts.
        """
        computation = computation or self.entry
        for each in self.computations[computation].values():
            if each.opcode == "while":
                trips = self.trips(each, computation)
                self.loops_once += trips is None
                for inner in each.called("body", "condition"):
                    yield from self.run(inner, times * (trips or 1))
            elif each.opcode == "conditional":
                branches = [
                    list(self.run(name, times))
                    for name in each.called(
                        "branch_computations", "true_computation", "false_computation"
                    )
                ]
                yield from max(branches, key=_total_cycles)
            elif each.opcode in ("call", "async-start"):
                for inner in each.called("to_apply", "calls"):
                    yield from self.run(inner, times)
            else:
                yield each, computation, times

    def trips(self, loop: Instruction, computation: str) -> int | None:
        """How often a `while` runs that counts up by one; None where that is not seen.

        The condition compares an element of the state with a constant; the element
        starts with a constant.
        """
        (name,) = loop.called("condition")
        condition, root = self.computations[name], self.roots[name]
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known[1])
        if root.opcode != "compare" or "direction=LT" not in root.attributes:
            return None
        counter, limit = (condition.get(x) for x in root.operands)
        if counter.opcode != "get-tuple-element" or limit.opcode != "constant":
            return None
        index = int(re.search(r"index=(\d+)", counter.attributes)[1])
        own = self.computations[computation]
        start = own.get(loop.operands[0])
        while start is not None and start.opcode in ("tuple", "copy"):
            start = own.get(start.operands[index if start.opcode == "tuple" else 0])
        if start is None or start.opcode != "constant":
            return None
        return int(_literal(limit)) - int(_literal(start))

    def hbm_bytes(self, each: Instruction, computation: str) -> int:
        """Bytes it reads from and writes to HBM: what is not kept in the chip's VMEM.

        Of an array of which a fusion reads or writes a slice, the slice.
        """
        own = self.computations[computation]
        reads = [own[name].result for name in each.operands if name in own]
        writes = [each.result]
        for name in each.called("calls") if each.opcode == "fusion" else ():
            reads, writes = self._slices(name, reads, writes)
        return sum(size_of(shape, hbm=True) for shape in [*reads, *writes])

    def _slices(self, name, reads, writes):
        inner = self.computations[name]
        users = collections.defaultdict(list)
        for each in inner.values():
            for operand in each.operands:
                users[operand].append(each)
        parameters = [x for x in inner.values() if x.opcode == "parameter"]
        reads = list(reads)
        for parameter in parameters:
            number = int(re.match(r"\d+", parameter.attributes)[0])
            uses = users[parameter.name]
            if uses and all(x.opcode in ("dynamic-slice", "slice") for x in uses):
                reads[number] = "".join(_placed(x.result, reads[number]) for x in uses)
            elif uses and all(
                x.opcode == "dynamic-update-slice" and x.operands[0] == parameter.name
                for x in uses
            ):
                reads[number] = ""
        root = self.roots[name]
        while root.opcode == "bitcast" and root.operands[0] in inner:
            root = inner[root.operands[0]]
        if root.opcode == "dynamic-update-slice":
            writes = [_placed(inner[root.operands[1]].result, writes[0])]
        return reads, writes


def _instruction(line: str) -> Instruction | None:
    match = re.match(r"\s+(?:ROOT )?%([\w.-]+) = ", line)
    if not match:
        return None
    rest = line[match.end() :]
    end = _closing(rest) if rest[0] == "(" else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = start + _closing(rest[start:])
    arguments = rest[start + 1 : end - 1]
    operands = tuple(re.findall(r"%([\w.-]+)", arguments))
    # A parameter's number and a constant's value are no operands.
    attributes = arguments + rest[end:] if not operands else rest[end:]
    return Instruction(match[1], result, rest[:start], operands, attributes)


def _closing(text: str) -> int:
    """Just behind the bracket that closes the one at the beginning."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return at + 1
    raise ValueError(f"a bracket is not closed: {text[:80]}")


def _literal(constant: Instruction) -> str:
    return constant.attributes.split(",")[0]


def _placed(shape: str, where: str) -> str:
    """The shape, in VMEM if `where` is."""
    return re.sub(r"S\(\d+\)", "", shape) if "S(1)" not in where else ""


def _total_cycles(run) -> int:
    return sum((each.cycles or 0) * times for each, _, times in run)


def sizes_of(shape: str, *, hbm: bool = False) -> list[int]:
    """Bytes of the arrays of a type, as they are tiled: T(8,128) fills tiles.

    Args:
      shape: such as `(f32[2,3]{1,0:T(8,128)}, s32[])`.
      hbm: leave out what lies elsewhere.
    """
    sizes = []
    for kind, dims, layout in _SHAPE.findall(shape):
        if hbm and re.search(r"S\([1-9]", layout):
            continue
        dims = [int(x) for x in dims.split(",") if x]
        order = [int(x) for x in re.findall(r"\d+", layout.split(":")[0])]
        tile = re.search(r"T\((\d+),(\d+)\)", layout)
        if tile and len(order) >= 2:
            for axis, to in zip(order[:2], (int(tile[2]), int(tile[1])), strict=True):
                dims[axis] = -(-dims[axis] // to) * to
        bits = _BITS.get(kind) or int((re.search(r"\d+", kind) or "0")[0])
        sizes.append(math.prod(dims) * bits // 8)
    return sizes


def size_of(shape: str, *, hbm: bool = False) -> int:
    """Sum of `sizes_of`."""
    return sum(sizes_of(shape, hbm=hbm))
