"""A network as a short list of operations that every runtime knows.

The jaxpr of a traced function is walked once. What depends on constants alone is
computed, what XLA needs and others do not is left out, and a bias goes into its
convolution. The formats write what remains.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from eseg_jax.export.errors import ExportError
from eseg_jax.ops.operation import as_nodes

_count = itertools.count()


@dataclasses.dataclass(eq=False)
class Node:
    """One operation.

    Attributes:
      op: "input", "constant", the name of a function of `eseg_jax.ops` or one of the
        operations of `_node` below.
      inputs: the nodes it reads. Those of an elementwise operation may have sizes of 1
        where the result has not, or no axes at all.
      shape: of the result; -1 is a batch of any size.
      dtype: of the result.
      options: by name, as the function or the primitive of JAX has them.
      value: of a constant.
    """

    op: str
    inputs: tuple[Node, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    value: np.ndarray | None = None
    index: int = dataclasses.field(default_factory=lambda: next(_count))


def trace(
    function: Callable[[jax.Array], jax.Array], images: jax.ShapeDtypeStruct
) -> tuple[Node, Node]:
    """The input and the output of a function of one array.

    The batch of `images` may be a symbolic dimension of `jax.export`.
    """
    with as_nodes():
        # A new function each time: traces are kept by function.
        closed = jax.make_jaxpr(lambda x: function(x))(images)
    source = Node("input", (), _dims(images.shape), np.dtype(images.dtype))
    consts = [_constant(value) for value in closed.consts]
    (output,) = _walk(closed.jaxpr, consts, [source])
    return source, output


def reachable(output: Node) -> list[Node]:
    """All nodes that the output needs, each after those it reads."""
    found, todo = {}, [output]
    while todo:
        node = todo.pop()
        if node.index not in found:
            found[node.index] = node
            todo.extend(node.inputs)
    return [found[index] for index in sorted(found)]


# ----------------------------------------------------------------------------- the walk

# Read by numpy's rule of broadcasting in all formats.
_ELEMENTWISE = {
    *("add", "sub", "mul", "div", "max", "min"),
    *("exp", "logistic", "gt", "select_n"),
}
_ACTIVATIONS = {"relu", "relu6"}
CONVOLUTIONS = {"conv", "depthwise_conv", "grouped_pointwise"}


def _walk(jaxpr: Jaxpr, consts: Iterable[Node], inputs: Iterable[Node]) -> list[Node]:
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= zip(jaxpr.invars, inputs, strict=True)

    def read(variable):
        if isinstance(variable, Literal):
            return _constant(np.asarray(variable.val, variable.aval.dtype))
        return known[variable]

    for eqn in jaxpr.eqns:
        results = _results(eqn, [read(variable) for variable in eqn.invars])
        known |= zip(eqn.outvars, results, strict=True)
    return [read(variable) for variable in jaxpr.outvars]


def _results(eqn: JaxprEqn, args: list[Node]) -> list[Node]:
    name, params, out = eqn.primitive.name, eqn.params, eqn.outvars[0].aval
    shape = _dims(out.shape)
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if inner is not None and params.get("name") in _ACTIVATIONS:
        return [_node(params["name"], args, shape, out.dtype)]
    if inner is not None:
        return _walk(inner.jaxpr, map(_constant, inner.consts), args)

    if name in _ELEMENTWISE:
        args = [x.inputs[0] if x.op == "broadcast" else x for x in args]
    if name != "broadcast_in_dim" and all(x.op == "constant" for x in args):
        return _computed(eqn, [x.value for x in args])
    match name:
        case "stop_gradient" | "copy" | "name":
            return args
        case "operation":
            return [_operation(args, shape, out.dtype, **params)]
        case "broadcast_in_dim":
            (x,) = args
            ones = [1] * len(shape)
            for size, axis in zip(x.shape, params["broadcast_dimensions"], strict=True):
                ones[axis] = size
            return [_broadcast(_reshape(x, tuple(ones)), shape)]
        case "reshape" | "squeeze" | "expand_dims":
            return [_reshape(args[0], shape)]
        case "convert_element_type":
            (x,) = args
            same = x.dtype == out.dtype
            return [x if same else _node("cast", args, shape, out.dtype)]
        case "reduce_sum" | "reduce_max":
            axes = tuple(params["axes"])
            kept = tuple(
                1 if axis in axes else size for axis, size in enumerate(args[0].shape)
            )
            return [_reshape(_node(name, args, kept, out.dtype, axes=axes), shape)]
        case "split":
            axis, ends = params["axis"], list(itertools.accumulate(params["sizes"]))
            return [
                _slice(args[0], axis, end - size, end)
                for size, end in zip(params["sizes"], ends, strict=True)
            ]
        case "slice":
            return [_sliced(args[0], params)]
        case "stack":
            axis = params["axis"]
            one = (*shape[:axis], 1, *shape[axis + 1 :])
            parts = [_reshape(x, one) for x in args]
            return [_node("concatenate", parts, shape, out.dtype, axis=axis)]
        case "concatenate":
            axis = params["dimension"]
            return [_node("concatenate", args, shape, out.dtype, axis=axis)]
        case "pad":
            return [_padded(args, shape, params["padding_config"])]
        case "transpose":
            order = tuple(params["permutation"])
            return [_node("transpose", args, shape, out.dtype, order=order)]
        case "dot_general":
            equation = _equation(args, params["dimension_numbers"])
            return [_node("einsum", args, shape, out.dtype, equation=equation)]
        case _ if name in _ELEMENTWISE:
            computed = _common_shape(args)
            result = _elementwise(name, args, computed, out.dtype)
            return [_broadcast(result, shape)]
    raise ExportError(
        f"The network has the operation {name}, which no format can write yet; "
        "give it a rule in eseg_jax/export/graph.py and the formats."
    )


def _computed(eqn: JaxprEqn, values: Sequence[np.ndarray]) -> list[Node]:
    """The results of an equation whose inputs are all constants."""
    if eqn.primitive.name in _ELEMENTWISE:
        values = np.broadcast_arrays(*values)
    results = eqn.primitive.bind(*values, **eqn.params)
    results = results if eqn.primitive.multiple_results else [results]
    return [
        _broadcast(_constant(result), _dims(variable.aval.shape))
        for result, variable in zip(results, eqn.outvars, strict=True)
    ]


def _dims(shape: Sequence) -> tuple[int, ...]:
    def size(dimension):
        try:
            return operator.index(dimension)
        except Exception:  # a symbolic size has an exception of its own
            return -1

    return tuple(size(dimension) for dimension in shape)


# ---------------------------------------------------------------------------- the nodes


def _node(op: str, inputs: Sequence[Node], shape, dtype, **options) -> Node:
    return Node(op, tuple(inputs), shape, np.dtype(dtype), options)


def _constant(value) -> Node:
    value = np.asarray(value)
    return Node("constant", (), value.shape, value.dtype, value=value)


def _operation(args, shape, dtype, *, function, **options) -> Node:
    name = function.__name__
    if name.startswith("resize") and shape == args[0].shape:
        return args[0]
    return _node(name, args, shape, dtype, **options)


def _reshape(x: Node, shape: tuple[int, ...]) -> Node:
    if x.op == "reshape":
        x = x.inputs[0]
    if x.shape == shape:
        return x
    if x.op == "constant" and -1 not in shape:
        return _constant(x.value.reshape(shape))
    return _node("reshape", [x], shape, x.dtype)


def _broadcast(x: Node, shape: tuple[int, ...]) -> Node:
    return x if x.shape == shape else _node("broadcast", [x], shape, x.dtype)


def _slice(x: Node, axis: int, start: int, stop: int, stride: int = 1) -> Node:
    size = -(-(stop - start) // stride)
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    options = {"axis": axis, "start": start, "stop": stop, "stride": stride}
    return x if shape == x.shape else _node("slice", [x], shape, x.dtype, **options)


def _sliced(x: Node, params: dict) -> Node:
    strides = params["strides"] or (1,) * len(x.shape)
    limits = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    for axis, (start, stop, stride) in enumerate(limits):
        if x.shape[axis] != -1:
            x = _slice(x, axis, int(start), int(stop), int(stride))
    return x


def _padded(args: Sequence[Node], shape, config) -> Node:
    x, value = args
    widths = tuple((int(low), int(high)) for low, high, _ in config)
    if any(between for *_, between in config) or min(min(w) for w in widths) < 0:
        raise ExportError("Padding between elements or below zero cannot be exported.")
    if not any(map(any, widths)):
        return x
    value = value.value.item()
    return _node("pad", [x], shape, x.dtype, widths=widths, value=value)


def _equation(args: Sequence[Node], dimension_numbers) -> tuple[str, str, str]:
    """Letters of the axes of both inputs and of the output."""
    (contract, batch), letters = dimension_numbers, iter("abcdefghijklmnop")
    sides: list[list[str]] = [[""] * len(x.shape) for x in args]
    for left, right in itertools.chain(
        zip(*batch, strict=True), zip(*contract, strict=True)
    ):
        sides[0][left] = sides[1][right] = next(letters)
    for side in sides:
        side[:] = [letter or next(letters) for letter in side]
    shared = [sides[0][axis] for axis in batch[0]]
    used = set(shared) | {sides[0][axis] for axis in contract[0]}
    rest = [letter for side in sides for letter in side if letter not in used]
    return "".join(sides[0]), "".join(sides[1]), "".join([*shared, *rest])


def _common_shape(args: Sequence[Node]) -> tuple[int, ...]:
    """Numpy's rule for shapes of one rank or none, where -1 is a size as any other."""
    shapes = [x.shape for x in args if x.shape]
    return tuple(
        next((size for size in sizes if size != 1), 1)
        for sizes in zip(*shapes, strict=True)
    )


def _elementwise(name: str, args: Sequence[Node], shape, dtype) -> Node:
    """The operation, or less where one side is a constant that allows it."""
    if len(args) != 2:
        return _node(name, args, shape, dtype)
    neutral = {"add": 0, "sub": 0, "mul": 1, "div": 1, "max": -np.inf}
    commutes = name in ("add", "mul", "max", "min")
    for x, other in (args, args[::-1]) if commutes else (args,):
        if other.op != "constant":
            continue
        if x.shape == shape and np.all(other.value == neutral.get(name)):
            return x
        if name == "add" and x.op in CONVOLUTIONS and len(x.inputs) == 2:
            if other.value.size == shape[-1] and other.shape[-1:] == shape[-1:]:
                bias = _constant(other.value.reshape(-1))
                return _node(x.op, [*x.inputs, bias], shape, dtype, **x.options)
        if name == "div" and x.op == "reduce_sum" and other.value.size == 1:
            axes = x.options["axes"]
            if other.value == math.prod(x.inputs[0].shape[axis] for axis in axes):
                return _node("reduce_mean", x.inputs, shape, dtype, axes=axes)
    return _node(name, args, shape, dtype)
