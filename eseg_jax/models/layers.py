"""Layers that two or more of the papers' networks share, and a check of options.

Every convolution of the library goes through `Conv`, which hands it to the
formulation of `eseg_jax.ops` that is fast on CPU, GPU and TPU alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from eseg_jax.ops.batch_norm import batch_norm, normalise
from eseg_jax.ops.conv import conv
from eseg_jax.ops.depthwise import depthwise_conv
from eseg_jax.ops.pool import avg_pool, max_pool

Activation = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Style:
    """What a network inherits from the framework its weights were trained in.

    Attributes:
      padding: "SAME" (TensorFlow: an odd pixel goes to the end) or "symmetric"
        (PyTorch: k // 2 on both sides).
      bn_momentum: share of the running statistic that is kept at each step.
      bn_epsilon: added to the variance.
      kernel_init: initialiser of convolution kernels [kh, kw, in, out].
      dtype: compute type; parameters and statistics are float32 whatever it is.
      remat: a key of `REMAT`: what the blocks of a network compute again for their
        gradient instead of keeping it.
    """

    padding: str
    bn_momentum: float
    bn_epsilon: float
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"


# What a block of a network keeps for its gradient: everything; its input; or also the
# results of convolutions, after which only what is cheap is computed again.
REMAT = {
    "none": None,
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "convolutions": jax.checkpoint_policies.save_only_these_names("convolution"),
}


def block(module: type[nn.Module], style: Style) -> type[nn.Module]:
    """The class of a network's block, called (x, train), as `style.remat` has it.

    The names of its parameters stay.
    """
    if style.remat == "none":
        return module
    return nn.remat(module, static_argnums=(2,), policy=REMAT[style.remat])


# EfficientNet's initialisation: normal(0, sqrt(2 / fan_out)), untruncated.
TENSORFLOW = Style(
    padding="SAME",
    bn_momentum=0.99,
    bn_epsilon=1e-3,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
)

# torch.nn.init.kaiming_normal_: normal(0, sqrt(2 / fan_in)), untruncated. PyTorch's
# momentum 0.1 is the share of the new statistic, 0.9 here of the old one.
PYTORCH = Style(
    padding="symmetric",
    bn_momentum=0.9,
    bn_epsilon=1e-5,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
)


def check_choices(
    network: str, variant: Any, choices: Mapping[str, Sequence[str]]
) -> None:
    """Stops when an option of a variant is none of its choices.

    Args:
      network: the paper's name, for the error.
      variant: has the options as attributes.
      choices: of each option, by its name.

    Raises:
      ValueError: names the option and its choices.
    """
    for option, known in choices.items():
        if getattr(variant, option) not in known:
            raise ValueError(
                f"{network} has no {option} {getattr(variant, option)!r}; "
                f"choose one of {', '.join(known)}."
            )


class Conv(nn.Module):
    """A convolution [n, h, w, i] -> [n, h', w', o] with kernel [kh, kw, i, o].

    A depthwise one keeps the channels and has the kernel [kh, kw, 1, c].
    """

    features: int
    style: Style
    kernel_size: int = 1
    strides: int = 1
    dilation: int = 1
    depthwise: bool = False
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k, style = self.kernel_size, self.style
        # A depthwise kernel's fan-out is k * k: each input feeds one output.
        inputs, init = x.shape[-1], style.kernel_init
        shape = (k, k, inputs, self.features)
        if self.depthwise:
            if self.features != inputs:
                raise ValueError(
                    f"A depthwise convolution keeps its {inputs} channels; "
                    f"features={self.features} was asked for."
                )
            shape, init = (k, k, 1, inputs), _depthwise_init(init)
        kernel = self.param("kernel", init, shape, jnp.float32)
        reach = self.dilation * (k - 1) // 2
        padding = "SAME" if style.padding == "SAME" else ((reach, reach),) * 2
        x = (depthwise_conv if self.depthwise else conv)(
            x.astype(style.dtype),
            kernel.astype(style.dtype),
            strides=(self.strides, self.strides),
            padding=padding,
            dilation=(self.dilation, self.dilation),
        )
        if style.remat == "convolutions":
            x = checkpoint_name(x, "convolution")
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            x = x + bias.astype(style.dtype).reshape(1, 1, 1, -1)
        return x


def _depthwise_init(init: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Initialises c kernels of one input and one output each."""

    def depthwise_init(key, shape, dtype=jnp.float32):
        k1, k2, _, channels = shape
        keys = jax.random.split(key, channels)
        kernels = jax.vmap(lambda one: init(one, (k1, k2, 1, 1), dtype))(keys)
        return jnp.moveaxis(kernels[..., 0], 0, -1)

    return depthwise_init


class BatchNorm(nn.Module):
    """Batch normalisation of [n, h, w, c] over n, h and w.

    The running statistics keep `style.bn_momentum` of themselves at each step; the rest
    are the batch's, its variance the biased one.
    """

    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape, ones, zeros = x.shape[-1:], nn.initializers.ones, nn.initializers.zeros
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", ones, shape, jnp.float32)
        bias = self.param("bias", zeros, shape, jnp.float32)
        x, epsilon = x.astype(self.style.dtype), self.style.bn_epsilon
        if not train:
            return normalise(x, mean.value, variance.value, scale, bias, epsilon)
        y, *found = batch_norm(x, scale, bias, epsilon)
        if not self.is_initializing():
            keep = self.style.bn_momentum
            for old, new in zip((mean, variance), found, strict=True):
                old.value = keep * old.value + (1 - keep) * new
        return y


class ConvBN(nn.Module):
    """Convolution, batch normalisation, optional activation.

    Under `jax.jit` with a batch sharded over a mesh the statistics are those of
    the global batch. With the variables of `folding.fold` the normalisation is in the
    kernel and its bias.
    """

    features: int
    style: Style
    kernel_size: int = 1
    strides: int = 1
    dilation: int = 1
    depthwise: bool = False
    activation: Activation | None = None
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        folded = self.has_variable("params", "conv") and not self.has_variable(
            "params", "bn"
        )
        if folded and train:
            raise ValueError(
                "A folded network has no batch normalisation left to train; "
                "train the variables that it was folded from."
            )
        x = Conv(
            self.features,
            self.style,
            self.kernel_size,
            self.strides,
            self.dilation,
            self.depthwise,
            self.use_bias or folded,
            name="conv",
        )(x)
        if not folded:
            x = BatchNorm(self.style, name="bn")(x, train)
        return x if self.activation is None else self.activation(x)


def classifier(num_classes: int, style: Style, name: str = "classifier") -> Conv:
    """The 1x1 convolution [n, h, w, c] -> [n, h, w, num_classes] float32 logits.

    bfloat16 would keep two to three digits of each. Kernels start near zero, so that
    training starts from nearly equal probabilities.
    """
    style = dataclasses.replace(
        style, dtype=jnp.float32, kernel_init=nn.initializers.normal(0.01)
    )
    return Conv(num_classes, style, use_bias=True, name=name)


class SeparableConvBN(nn.Module):
    """Depthwise 3x3, then pointwise 1x1 with batch normalisation and activation."""

    features: int
    style: Style
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Conv(x.shape[-1], self.style, 3, depthwise=True, name="depthwise")(x)
        return ConvBN(
            self.features, self.style, activation=self.activation, name="pointwise"
        )(x, train)


class SqueezeExcite(nn.Module):
    """Gates the channels of [n, h, w, c] by their global mean (two 1x1 layers)."""

    reduced: int
    style: Style
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gate = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        gate = Conv(self.reduced, self.style, use_bias=True, name="reduce")(gate)
        gate = self.activation(gate)
        gate = Conv(x.shape[-1], self.style, use_bias=True, name="expand")(gate)
        return x * jax.nn.sigmoid(gate)


class MaxPool(nn.Module):
    """3x3 max pooling of stride 2; a module so that cost counting sees it.

    With `ceil_mode`, PyTorch's, an even size s gives s / 2 + 1 pixels, not s / 2: one
    more window starts inside the image. Symmetric padding only.
    """

    style: Style
    ceil_mode: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = ((1, 2), (1, 2)) if self.ceil_mode else _pool(self.style)
        return max_pool(x, window=(3, 3), strides=(2, 2), padding=padding)


class AvgPool(nn.Module):
    """3x3 average pooling of stride 2; padded cells leave the divisor."""

    style: Style

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return avg_pool(x, window=(3, 3), strides=(2, 2), padding=_pool(self.style))


def _pool(style: Style):
    return "SAME" if style.padding == "SAME" else ((1, 1), (1, 1))


class DropConnect(nn.Module):
    """Drops a residual branch for whole images with probability `rate`.

    Kept branches are scaled by 1 / (1 - rate). Draws from the random stream
    "drop_connect" when training.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0], 1, 1, 1)
        kept = jax.random.bernoulli(self.make_rng("drop_connect"), keep, shape)
        return jnp.where(kept, x / keep, jnp.zeros_like(x))
