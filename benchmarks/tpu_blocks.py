"""Estimates parts of ESeg-S's train step on one chip of a TPU v5e, without one.

  python benchmarks/tpu_blocks.py [NAMES…]

Each part is compiled by itself, forward and backward in training, at the size that it
has on one of eight chips with the paper's recipe: 2 crops of 512x1024, bfloat16. Prints
microseconds by the compiler's own cycles (eseg_jax/tpu.py) and the slowest sources; a
part takes a quarter of a minute of a core, the whole network several. Layouts at the
seams are the compiler's choice, so that parts need not add up to the whole.
"""

import argparse
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Format, Layout

from eseg_jax import losses, planning, sharding, steps, tpu
from eseg_jax.models import eseg, layers
from eseg_jax.models.backbones import efficientnet
from eseg_jax.ops.resize import resize_nearest

STYLE = dataclasses.replace(layers.TENSORFLOW, dtype=jnp.bfloat16)
HEIGHT, WIDTH, FEATURES = 512, 1024, 96


class Stem(nn.Module):
    """The first convolution, from the bytes of the images on."""

    @nn.compact
    def __call__(self, images, train):
        x = steps.normalise(images, (120.0,) * 3, (60.0,) * 3)
        return layers.ConvBN(32, STYLE, 3, 2, activation=nn.swish)(x, train)


class Node(nn.Module):
    """A node of the BiFPN on the way down."""

    @nn.compact
    def __call__(self, levels, train):
        x, coarser = levels
        fused = eseg.Fusion("fast")((x, resize_nearest(coarser, x.shape[1:3])))
        return layers.SeparableConvBN(FEATURES, STYLE, nn.swish)(fused, train)


class Pool(nn.Module):
    """The pooling between two levels of the BiFPN, between two products."""

    @nn.compact
    def __call__(self, x, train):
        del train
        x = layers.Conv(FEATURES, STYLE)(x)
        return layers.Conv(FEATURES, STYLE)(layers.MaxPool(STYLE)(x))


def block(stage, strides):
    """An MBConv block of EfficientNet-B1."""
    stage = efficientnet.STAGES[stage]
    return efficientnet.MBConv(stage, strides, stage.features, 0.1, STYLE, nn.swish)


def feature(stride, channels):
    shape = (2, HEIGHT // stride, WIDTH // stride, channels)
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


IMAGES = jax.ShapeDtypeStruct((2, HEIGHT, WIDTH, 3), jnp.uint8)
PARTS = {
    "stem": (Stem(), IMAGES),
    "block 1, 3x3, at 1/2": (block(0, 1), feature(2, 32)),
    "block 3, 3x3, from 1/2 to 1/4": (block(1, 2), feature(2, 16)),
    "block 4, 3x3, at 1/4": (block(1, 1), feature(4, 24)),
    "block 7, 5x5, at 1/8": (block(2, 1), feature(8, 40)),
    "BiFPN node at 1/4": (Node(), (feature(4, FEATURES), feature(8, FEATURES))),
    "BiFPN pooling from 1/4": (Pool(), feature(4, FEATURES)),
}


def of_module(module, inputs):
    """The part's forward and backward pass, and its arguments."""

    def apply(variables, inputs):
        return module.apply(
            variables,
            inputs,
            True,
            mutable=["batch_stats"],
            rngs={"drop_connect": jax.random.key(0)},
        )

    variables = jax.eval_shape(
        lambda x: module.init(jax.random.key(0), x, True), inputs
    )
    output, _ = jax.eval_shape(apply, variables, inputs)

    def both(params, rest, inputs, cotangent):
        # The images have no gradient.
        images = jax.tree.leaves(inputs)[0].dtype == jnp.uint8

        def function(params, x):
            return apply({"params": params, **rest}, inputs if images else x)

        output, pull, stats = jax.vjp(
            function, params, () if images else inputs, has_aux=True
        )
        return output, stats, pull(cotangent)

    params = variables.pop("params")
    return both, (params, variables, inputs, output)


def of_loss():
    """The loss with its enlargement and its hard pixels."""

    def loss(logits, labels):
        return losses.segmentation_loss(
            {"logits": logits, "aux": {}},
            labels,
            ohem={"threshold": 0.9, "min_kept_fraction": 0.125},
        )

    logits = jax.ShapeDtypeStruct((2, HEIGHT // 4, WIDTH // 4, 19), jnp.float32)
    labels = jax.ShapeDtypeStruct((2, HEIGHT, WIDTH), jnp.uint8)
    return jax.value_and_grad(loss, has_aux=True), (logits, labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of parts; all without any")
    args = parser.parse_args()
    (device, *_) = planning.slice_devices("v5e:2x2")
    mesh = sharding.make_mesh({"data": 1}, [device])
    place = Format(Layout.AUTO, sharding.replicated(mesh))
    print("| part | µs | slowest sources |\n|---|---|---|")
    for name in [*PARTS, "loss"]:
        if args.names and not name.startswith(tuple(args.names)):
            continue
        function, arguments = of_module(*PARTS[name]) if name in PARTS else of_loss()
        step = jax.jit(function, in_shardings=place, out_shardings=place)
        text = step.lower(*arguments).compile().as_text()
        found = tpu.estimate(text, tpu.CHIPS[device.device_kind], 1)
        slowest = "; ".join(
            f"{1e6 * seconds:.0f} {source.split('/', 1)[-1]}"
            for source, seconds in list(found.sources.items())[:3]
        )
        print(f"| {name} | {1e6 * found.total:.0f} | {slowest} |", flush=True)


if __name__ == "__main__":
    main()
