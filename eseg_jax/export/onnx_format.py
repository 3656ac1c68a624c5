"""The graph as ONNX (operator set 18).

Maps [n, h, w, c] are [n, c, h, w] inside, as the runtimes want them; only the images
that come in and the result are as everywhere else. Needs the package onnx.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eseg_jax.export.errors import needed
from eseg_jax.export.graph import CONVOLUTIONS, Node, reachable
from eseg_jax.ops.adaptive_pool import bin_averages
from eseg_jax.ops.windows import pad_pairs

_OPSET, _IR = 18, 8
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_SAME_NAME = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "exp": "Exp",
    "logistic": "Sigmoid",
    "gt": "Greater",
    "relu": "Relu",
}
_REDUCTIONS = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_mean": "ReduceMean",
}
_RESIZES = {
    "resize_bilinear": ("linear", "half_pixel"),
    "resize_align_corners": ("linear", "align_corners"),
    "resize_nearest": ("nearest", "half_pixel"),
}


def write(source: Node, output: Node, output_name: str, path: str) -> None:
    """Writes the graph between two nodes; the input's name is "images"."""
    with needed("onnx"):
        import onnx

    helper = onnx.helper

    writer = _Writer(onnx)
    for node in reachable(output):
        if node.op != "constant":  # those are written where they are read
            writer.names[node.index] = writer.write(node)
    writer.add("Identity", writer.nhwc(output), result=output_name)

    def info(name: str, node: Node):
        shape = ["batch" if size == -1 else size for size in node.shape]
        kind = helper.np_dtype_to_tensor_dtype(node.dtype)
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        writer.nodes,
        "eseg_jax",
        [info("images", source)],
        [info(output_name, output)],
        writer.constants,
    )
    model = helper.make_model(
        graph,
        producer_name="eseg_jax",
        ir_version=_IR,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


class _Writer:
    """Collects ONNX's nodes and constants; `names` are those of the results."""

    def __init__(self, onnx):
        self._onnx = onnx
        self.nodes: list = []
        self.constants: list = []
        self.names: dict[int, str] = {}

    def add(self, kind: str, *inputs: str, result: str = "", **attributes) -> str:
        result = result or f"{kind.lower()}_{len(self.nodes)}"
        node = self._onnx.helper.make_node(kind, inputs, [result], **attributes)
        self.nodes.append(node)
        return result

    def constant(self, value: np.ndarray | Sequence[int]) -> str:
        name = f"constant_{len(self.constants)}"
        value = np.ascontiguousarray(value)
        self.constants.append(self._onnx.numpy_helper.from_array(value, name))
        return name

    def nhwc(self, node: Node) -> str:
        """The result of a node with its axes as they are in JAX."""
        return self._transposed(node, self._name(node), _TO_NHWC)

    def _name(self, node: Node) -> str:
        if node.index not in self.names:
            value = node.value.transpose(_TO_NCHW) if _is_map(node) else node.value
            self.names[node.index] = self.constant(value)
        return self.names[node.index]

    def _nchw(self, node: Node, name: str) -> str:
        return self._transposed(node, name, _TO_NCHW)

    def _transposed(self, node: Node, name: str, order: Sequence[int]) -> str:
        if len(node.shape) != 4:
            return name
        return self.add("Transpose", name, perm=order)

    def write(self, node: Node) -> str:
        """Writes a node and returns the name of its result."""
        if node.op in CONVOLUTIONS:
            return self._conv(node)
        x = [self._name(value) for value in node.inputs]
        options = node.options
        match node.op:
            case "input":
                return self._nchw(node, "images")
            case "max_pool" | "avg_pool":
                return self._pool(node)
            case op if op in _RESIZES:
                return self._resize(node)
            case "adaptive_avg_pool":
                rows, columns = (
                    bin_averages(size, options["bins"])
                    for size in node.inputs[0].shape[1:3]
                )
                y = self.add("MatMul", self.constant(rows), x[0])
                return self.add("MatMul", y, self.constant(columns.T))
            case "bilinear_warp":
                return self.add(
                    "GridSample",
                    x[0],
                    self.nhwc(node.inputs[1]),
                    mode="bilinear",
                    padding_mode=options["padding_mode"],
                    align_corners=int(options["align_corners"]),
                )
            case op if op in _SAME_NAME:
                return self.add(_SAME_NAME[op], *x)
            case "relu6":
                low, high = (self.constant(np.float32(end)) for end in (0, 6))
                return self.add("Clip", x[0], low, high)
            case "select_n":
                return self.add("Where", x[0], x[2], x[1])
            case op if op in _REDUCTIONS:
                axes = self.constant([_axis(node, axis) for axis in options["axes"]])
                return self.add(_REDUCTIONS[op], x[0], axes)
            case "most_likely":
                y = self.add("ArgMax", x[0], axis=1, keepdims=0)
                return self._cast(y, node.dtype)
            case "cast":
                return self._cast(x[0], node.dtype)
            case "broadcast":
                # A size of 1 keeps that of the input: the batch, when it is dynamic.
                shape = [abs(size) for size in _stored(node, node.shape)]
                return self.add("Expand", x[0], self.constant(shape))
            case "reshape":
                y = self.nhwc(node.inputs[0])
                y = self.add("Reshape", y, self.constant(node.shape))
                return self._nchw(node, y)
            case "transpose":
                y = self.nhwc(node.inputs[0])
                y = self.add("Transpose", y, perm=options["order"])
                return self._nchw(node, y)
            case "slice":
                names = ("start", "stop", "axis", "stride")
                values = options | {"axis": _axis(node, options["axis"])}
                bounds = [self.constant([values[name]]) for name in names]
                return self.add("Slice", x[0], *bounds)
            case "concatenate":
                return self.add("Concat", *x, axis=_axis(node, options["axis"]))
            case "pad":
                widths = np.array(_stored(node, options["widths"]))
                value = self.constant(np.asarray(options["value"], node.dtype))
                return self.add("Pad", x[0], self.constant(widths.T.ravel()), value)
            case "einsum":
                sides = zip(options["equation"], (*node.inputs, node), strict=True)
                left, right, out = ("".join(_stored(v, side)) for side, v in sides)
                return self.add("Einsum", *x, equation=f"{left},{right}->{out}")
        raise NotImplementedError(node.op)

    def _cast(self, name: str, dtype: np.dtype) -> str:
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(dtype)
        return self.add("Cast", name, to=kind)

    def _conv(self, node: Node) -> str:
        x, kernel, *bias = node.inputs
        options = {"strides": (1, 1), "padding": "SAME", "dilation": (1, 1)}
        options |= node.options
        groups = options.get("groups", 1)
        if node.op == "depthwise_conv":
            groups = x.shape[-1]
        # [kh, kw, i / groups, o] -> [o, i / groups, kh, kw].
        inputs = [self.constant(kernel.value.transpose(3, 2, 0, 1))]
        inputs += [self._name(b) for b in bias]
        return self.add(
            "Conv",
            self._name(x),
            *inputs,
            strides=options["strides"],
            dilations=options["dilation"],
            pads=_pads(
                x,
                kernel.shape[:2],
                options["strides"],
                options["padding"],
                options["dilation"],
            ),
            group=groups,
        )

    def _pool(self, node: Node) -> str:
        (x,), options = node.inputs, node.options
        window, strides = options["window"], options["strides"]
        attributes = {
            "kernel_shape": window,
            "strides": strides,
            "pads": _pads(x, window, strides, options["padding"]),
        }
        kind = "MaxPool" if node.op == "max_pool" else "AveragePool"
        return self.add(kind, self._name(x), **attributes)

    def _resize(self, node: Node) -> str:
        mode, coordinates = _RESIZES[node.op]
        nearest = {"nearest_mode": "round_prefer_ceil"} if mode == "nearest" else {}
        return self.add(
            "Resize",
            self._name(node.inputs[0]),
            "",
            "",
            self.constant(node.shape[1:3]),
            axes=(2, 3),
            mode=mode,
            coordinate_transformation_mode=coordinates,
            **nearest,
        )


def _is_map(node: Node) -> bool:
    return len(node.shape) == 4


def _axis(node: Node, axis: int) -> int:
    return _TO_NCHW.index(axis) if _is_map(node) else axis


def _stored(node: Node, axes: Sequence) -> list:
    """What belongs to each axis, in the order in which the node's axes are stored."""
    return [axes[i] for i in _TO_NCHW] if _is_map(node) else list(axes)


def _pads(x: Node, window, strides, padding, dilation=(1, 1)) -> list[int]:
    """[top, left, bottom, right]."""
    rows, columns = pad_pairs(x.shape, window, strides, padding, dilation)
    return [rows[0], columns[0], rows[1], columns[1]]
