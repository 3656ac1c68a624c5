"""What a network costs: parameters and multiply-adds, counted without running it.

The network is traced with abstract arrays, so counting takes no memory and does not
depend on how `eseg_jax.ops` computes a convolution: a convolution costs one
multiply-add for each output element and kernel tap.

Papers mean different things by FLOPs. A network whose paper counts more than the
multiply-adds of its convolutions has a method

    extra_flops(module, inputs, output) -> float

that says what a call of one of its modules adds; without it they are the same.
"""

from __future__ import annotations

import collections
import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from eseg_jax import models
from eseg_jax.models.frfnet import GroupedConv
from eseg_jax.models.layers import Conv
from eseg_jax.trees import count_parameters


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one image costs a network.

    Attributes:
      name: the variant.
      size: (height, width) of the image.
      num_classes: channels of the logits.
      parameters: trainable numbers, those of heads that only training uses included.
      deployed: trainable numbers of the parts that inference uses.
      batch_stats: numbers in the running statistics of batch normalisation.
      macs: multiply-adds of the convolutions.
      paper_flops: FLOPs as the paper counts them.
      logits_stride: image pixels from one logit to the next.
      parts: (parameters, macs) of each outermost module.
    """

    name: str
    size: tuple[int, int]
    num_classes: int
    parameters: int
    deployed: int
    batch_stats: int
    macs: int
    paper_flops: float
    logits_stride: int
    parts: dict[str, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Layer:
    """What one convolution costs for one image.

    Attributes:
      macs: multiply-adds.
      activations: numbers of its input and its output.
      weights: numbers of its kernel.
    """

    macs: int
    activations: int
    weights: int


def layers(
    name: str, size: tuple[int, int], num_classes: int = 19, **options
) -> dict[str, Layer]:
    """Every convolution of a variant of `models.names()` in inference, by its path."""
    model = models.create(name, num_classes, **options)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    variables = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x, train=False), images
    )
    found = {}

    def note(call, args, kwargs, context):
        output, module = call(*args, **kwargs), context.module
        if isinstance(module, Conv | GroupedConv):
            kernel = module.get_variable("params", "kernel")
            found["/".join(module.path)] = Layer(
                output.size * math.prod(kernel.shape[:-1]),
                args[0].size + output.size,
                kernel.size,
            )
        return output

    with nn.intercept_methods(note):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    return found


def count(
    name: str,
    size: tuple[int, int] | None = None,
    num_classes: int = 19,
    *,
    training: bool = False,
    **options,
) -> Cost:
    """Counts a variant of `models.names()`.

    Args:
      name: the variant.
      size: (height, width) of the image; None is the size the paper counts at.
      num_classes: channels of the logits.
      training: count the multiply-adds of a forward pass in training, which has the
        training heads.
      **options: overrides for `models.create`.

    Raises:
      ValueError: an unknown name or option.
    """
    model = models.create(name, num_classes, **options)
    height, width = size or models.info(name).size
    extra_flops = getattr(model, "extra_flops", None)
    key = jax.random.key(0)
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    # Not counted while initialising: heads that only training uses run there too.
    variables = jax.eval_shape(lambda x: model.init(key, x, train=False), images)

    def trace(train: bool):
        """Multiply-adds by part, what the paper adds, parts in use, and the outputs."""
        macs: collections.Counter[str] = collections.Counter()
        used: set[str] = set()
        extra = 0.0

        def intercept(call, args, kwargs, context):
            nonlocal extra
            output = call(*args, **kwargs)
            module = context.module
            if context.method_name == "__call__":
                used.update(module.path[:1])
                if isinstance(module, Conv | GroupedConv):
                    *taps, _ = module.get_variable("params", "kernel").shape
                    macs[module.path[0]] += output.size * math.prod(taps)
                if extra_flops is not None:
                    extra += extra_flops(module, args, output)
            return output

        def apply(variables, images):
            with nn.intercept_methods(intercept):
                return model.apply(
                    variables,
                    images,
                    train=train,
                    mutable=["batch_stats"],
                    rngs={"dropout": key, "drop_connect": key},
                )[0]

        outputs = jax.eval_shape(apply, variables, images)
        return macs, extra, used, outputs

    macs, extra, used, outputs = trace(train=False)
    if training:
        macs, extra, _, _ = trace(train=True)
    params = variables["params"]
    total = sum(macs.values())
    return Cost(
        name=name,
        size=(height, width),
        num_classes=num_classes,
        parameters=count_parameters(params),
        deployed=sum(count_parameters(params[part]) for part in params if part in used),
        batch_stats=count_parameters(variables.get("batch_stats", {})),
        macs=total,
        paper_flops=total + extra,
        logits_stride=round(width / outputs["logits"].shape[2]),
        parts={part: (count_parameters(params[part]), macs[part]) for part in params},
    )
