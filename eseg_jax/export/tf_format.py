"""The graph in TensorFlow's operations, as a SavedModel or for LiteRT."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from eseg_jax.export.errors import ExportError, needed
from eseg_jax.export.graph import CONVOLUTIONS, Node, reachable
from eseg_jax.ops.adaptive_pool import bin_averages
from eseg_jax.ops.windows import pad_pairs

QUANTIZATIONS = ("", "float16", "int8")
# graph.Node.op -> a function of tf.math.
_SAME_RESULT = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "max": "maximum",
    "min": "minimum",
    "exp": "exp",
    "logistic": "sigmoid",
    "gt": "greater",
}
_REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_mean")


def write_saved_model(source: Node, output: Node, name: str, path: str) -> None:
    """Writes a SavedModel: its signature takes "images" and gives {name: output}."""
    with needed("tensorflow"):
        from eseg_jax.input.tf_cpu import tf

    module = _module(tf, source, output, name)
    tf.saved_model.save(module, str(path), signatures=module.call)


def write_litert(
    source: Node,
    output: Node,
    name: str,
    path: str,
    quantize: str = "",
    calibration: Callable[[], Iterable[np.ndarray]] | None = None,
) -> None:
    """Writes a .tflite file of a graph with a fixed batch.

    Args:
      source, output, name: as in `write_saved_model`.
      path: of the file.
      quantize: "" is float32; "float16" stores weights so; "int8" computes so where
        LiteRT can, with ranges from `calibration`, between inputs and outputs that
        stay as they are.
      calibration: makes inputs [n, h, w, 3], some hundred of them at best.
    """
    with needed("tensorflow"):
        from eseg_jax.input.tf_cpu import tf

    if source.shape[0] == -1:
        raise ExportError(
            "LiteRT takes batches of one size: give its number, --batch=1."
        )
    module = _module(tf, source, output, name)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.call.get_concrete_function()], module
    )
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif quantize == "int8":
        converter.representative_dataset = lambda: ([x] for x in calibration())
        # What has no form in int8 stays float32.
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
            tf.lite.OpsSet.TFLITE_BUILTINS,
        ]
    pathlib.Path(path).write_bytes(converter.convert())


def _module(tf, source: Node, output: Node, name: str):
    """A tf.Module whose `call` is the network; its kernels are variables."""
    nodes = [node for node in reachable(output) if node.op != "constant"]
    module = tf.Module()
    # As constants they would be copied with every step of a conversion.
    module.kernels = [
        tf.Variable(_kernel(node), trainable=False)
        for node in nodes
        if node.op in CONVOLUTIONS
    ]

    def network(images):
        known, kernels = {source.index: images}, iter(module.kernels)

        def read(node):
            return known[node.index] if node.value is None else tf.constant(node.value)

        for node in nodes:
            if node.op in CONVOLUTIONS:
                x, _, *bias = node.inputs
                y = _conv(tf, node, read(x), next(kernels), *map(read, bias))
            elif node is not source:
                y = _result(tf, node, *map(read, node.inputs))
            else:
                continue
            known[node.index] = y
        return {name: known[output.index]}

    shape = [None if size == -1 else size for size in source.shape]
    spec = tf.TensorSpec(shape, source.dtype, name="images")
    module.call = tf.function(network, input_signature=[spec], autograph=False)
    return module


def _result(tf, node: Node, *x):
    options = node.options
    match node.op:
        case "max_pool":
            return _max_pool(tf, node, *x)
        case "avg_pool":
            return _avg_pool(tf, node, *x)
        case "resize_nearest":
            return tf.raw_ops.ResizeNearestNeighbor(
                images=x[0], size=node.shape[1:3], half_pixel_centers=True
            )
        case "resize_bilinear" | "resize_align_corners" as op:
            corners = op == "resize_align_corners"
            return tf.raw_ops.ResizeBilinear(
                images=x[0],
                size=node.shape[1:3],
                align_corners=corners,
                half_pixel_centers=not corners,
            )
        case "adaptive_avg_pool":
            bins, (h, w) = options["bins"], node.inputs[0].shape[1:3]
            if bins == 1:
                return tf.reduce_mean(x[0], (1, 2), keepdims=True)
            y = tf.einsum("ph,nhwc->npwc", bin_averages(h, bins), x[0])
            return tf.einsum("qw,npwc->npqc", bin_averages(w, bins), y)
        case "bilinear_warp":
            return _warp(tf, node, *x, **options)
        case op if op in _SAME_RESULT:
            return getattr(tf.math, _SAME_RESULT[op])(*x)
        case "relu" | "relu6" as op:
            return getattr(tf.nn, op)(x[0])
        case "select_n":
            return tf.where(x[0], x[2], x[1])
        case op if op in _REDUCTIONS:
            return getattr(tf, op)(x[0], options["axes"], keepdims=True)
        case "most_likely":
            return tf.cast(tf.argmax(x[0], -1, output_type=tf.int32), node.dtype)
        case "cast":
            return tf.cast(x[0], node.dtype)
        case "broadcast":
            sizes = zip(node.inputs[0].shape, node.shape, strict=True)
            return tf.tile(x[0], [1 if old == new else new for old, new in sizes])
        case "reshape":
            return tf.reshape(x[0], node.shape)
        case "transpose":
            return tf.transpose(x[0], options["order"])
        case "slice":
            start, stop, stride = (options[k] for k in ("start", "stop", "stride"))
            every = [slice(None)] * len(node.shape)
            every[options["axis"]] = slice(start, stop, stride)
            return x[0][tuple(every)]
        case "concatenate":
            return tf.concat(x, options["axis"])
        case "pad":
            return tf.pad(x[0], options["widths"], constant_values=options["value"])
        case "einsum":
            left, right, out = options["equation"]
            return tf.einsum(f"{left},{right}->{out}", *x)
    raise NotImplementedError(node.op)


def _kernel(node: Node) -> np.ndarray:
    """The kernel as TensorFlow has it: depthwise [h, w, c, 1], else [h, w, i, o]."""
    kernel = node.inputs[1].value
    if node.op == "depthwise_conv":
        return kernel.transpose(0, 1, 3, 2)
    if node.op == "conv":
        return kernel
    # With zeros between the groups: few runtimes know groups.
    groups = node.options["groups"]
    inside, out = kernel.shape[2], kernel.shape[3] // groups
    dense = np.zeros((1, 1, groups * inside, groups * out), kernel.dtype)
    for g in range(groups):
        columns = slice(g * out, (g + 1) * out)
        dense[:, :, g * inside : (g + 1) * inside, columns] = kernel[..., columns]
    return dense


def _conv(tf, node: Node, x, kernel, bias=None):
    options = {"strides": (1, 1), "padding": "SAME", "dilation": (1, 1)}
    options |= node.options
    strides, dilation = options["strides"], options["dilation"]
    x, padding = _padded(tf, node, x, kernel.shape[:2], options)
    if node.op == "depthwise_conv":
        y = tf.nn.depthwise_conv2d(
            x, kernel, (1, *strides, 1), padding, dilations=dilation
        )
    else:
        y = tf.nn.conv2d(x, kernel, strides, padding, dilations=dilation)
    return y if bias is None else tf.nn.bias_add(y, bias)


def _padded(tf, node: Node, x, window, options):
    """x and the name of the padding that is left to do."""
    shape, strides = node.inputs[0].shape, options["strides"]
    dilation = options.get("dilation", (1, 1))
    same, pads = (
        pad_pairs(shape, window, strides, padding, dilation)
        for padding in ("SAME", options["padding"])
    )
    if pads == same:
        return x, "SAME"
    if any(map(any, pads)):
        x = tf.pad(x, ((0, 0), *pads, (0, 0)))
    return x, "VALID"


def _max_pool(tf, node: Node, x):
    window, strides = node.options["window"], node.options["strides"]
    padded, padding = _padded(tf, node, x, window, node.options)
    if padding == "VALID" and not _not_negative(node.inputs[0]):
        # Zeros would win. What is repeated at the edge does not, and unlike a very low
        # number it leaves int8 its range.
        padded = x
        for axis, pads in enumerate(
            pad_pairs(node.inputs[0].shape, window, strides, node.options["padding"]), 1
        ):
            size = node.inputs[0].shape[axis]
            rows = np.clip(np.arange(-pads[0], size + pads[1]), 0, size - 1)
            padded = tf.gather(padded, rows, axis=axis)
    return tf.nn.max_pool2d(padded, window, strides, padding)


def _not_negative(node: Node) -> bool:
    if node.op in ("mul", "concatenate", "max_pool"):
        return all(map(_not_negative, node.inputs))
    return node.op in ("relu", "relu6", "logistic")


def _avg_pool(tf, node: Node, x):
    window, strides = node.options["window"], node.options["strides"]
    x, padding = _padded(tf, node, x, window, node.options)
    if padding != "SAME":
        raise ExportError(
            "TensorFlow's average pooling has the padding SAME alone, not "
            f"{node.options['padding']}."
        )
    return tf.nn.avg_pool2d(x, window, strides, padding)


def _warp(tf, node: Node, features, grid, *, align_corners, padding_mode):
    """`ops.warp.bilinear_warp` by four gathers from the map inside a rim of zeros."""
    _, h, w, c = node.inputs[0].shape
    rim = 1 if padding_mode == "zeros" else 0

    def locate(x, size):
        x = (x + 1) / 2 * (size - 1) if align_corners else ((x + 1) * size - 1) / 2
        x = tf.clip_by_value(x, -rim, size - 1 + rim)
        corner = tf.minimum(tf.floor(x), size - 1)
        return corner, x - corner

    column, left = locate(grid[..., 0], w)
    row, up = locate(grid[..., 1], h)
    padded = tf.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)))
    pixels = tf.reshape(padded, (-1, (h + 2) * (w + 2), c))
    total = 0.0
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        index = (row + 1 + dy) * (w + 2) + column + 1 + dx
        index = tf.cast(
            tf.reshape(index, (-1, index.shape[1] * index.shape[2])), "int32"
        )
        value = tf.gather(pixels, index, batch_dims=1)
        weight = (up if dy else 1 - up) * (left if dx else 1 - left)
        total += weight[..., None] * tf.reshape(value, node.shape)
    return total
