"""Where convolution kernels lie on a mesh of devices, and a gradient that needs it."""

from collections.abc import Sequence

import jax
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from eseg_jax.ops.windows import Pair, Pairs


def on_several_devices() -> bool:
    """Whether XLA will split over devices what is traced here as one.

    Slices of images and rows then cost traffic between devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size > 1 and set(mesh.axis_types) == {AxisType.Auto}


def rows_are_split() -> bool:
    """Whether XLA will split the rows of images, of what is traced here, over devices.

    They are on the mesh's axis "spatial".
    """
    mesh = jax.sharding.get_abstract_mesh()
    return on_several_devices() and mesh.shape.get("spatial", 1) > 1


def on_every_device(kernel: jax.Array) -> jax.Array:
    """The kernel, and its gradient, whole on each device of the context's mesh.

    XLA splits images over devices, and could split kernels to fit: where the rows of
    images are split, by their rows. It does so for flipped kernels of gradients, and
    then sums some of the products twice (jax 0.10.2, the Shardy partitioner). Without
    `jax.set_mesh`, and under `jax.shard_map`, this does nothing.
    """
    if not on_several_devices():
        return kernel
    return lax.with_sharding_constraint(kernel, PartitionSpec())


def input_gradient(
    g: jax.Array,
    kernel: jax.Array,
    size: Pair,
    strides: Sequence[int],
    pads: Pairs,
    dilation: Sequence[int],
    *,
    depthwise: bool = False,
) -> jax.Array:
    """The gradient of a convolution's input, in the library's own form.

    Args:
      g: `[n,h',w',o]`, the output's gradient.
      kernel: `[kh,kw,i,o]`, or `[kh,kw,1,o]` of a depthwise convolution.
      size: (h, w) of the input.
      strides, pads, dilation: of the convolution.
      depthwise: whether each channel has its own kernel.
    """
    around = []
    for k, d, (before, _), length, out, stride in zip(
        kernel.shape[:2], dilation, pads, size, g.shape[1:3], strides, strict=True
    ):
        reach = (k - 1) * d
        around.append((reach - before, length + before - 1 - (out - 1) * stride))
    return lax.conv_general_dilated(
        g,
        on_every_device(lax.rev(kernel, (0, 1))),
        (1, 1),
        around,
        lhs_dilation=strides,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO" if depthwise else "HWOI", "NHWC"),
        feature_group_count=g.shape[-1] if depthwise else 1,
    )
