"""The modified Xception A and B of DFANet (DFANet Table 1).

Where the table is silent the reading is the one whose multiply-adds come nearest to
the printed ones: the first separable convolution of a stage carries its stride, and
that block's shortcut is a projection.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from eseg_jax.models.layers import Activation, ConvBN, Style, block

# Output channels of enc2, enc3 and enc4; inside a block there is a quarter of them.
FEATURES = {"a": (48, 96, 192), "b": (32, 64, 128)}
REPEATS = (4, 6, 4)
STEM_FEATURES = 8


class SeparableConv(nn.Module):
    """Depthwise 3x3 + BN, then pointwise 1x1 + BN and an optional activation.

    No activation in between; the normalisation there is our choice, for which the
    counts speak slightly.
    """

    features: int
    style: Style
    strides: int = 1
    activation: Activation | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = ConvBN(
            x.shape[-1], self.style, 3, self.strides, depthwise=True, name="depthwise"
        )(x, train)
        return ConvBN(
            self.features, self.style, activation=self.activation, name="pointwise"
        )(x, train)


class Block(nn.Module):
    """Three separable convolutions and a shortcut, ReLU after the sum.

    With `strides` 2 the shortcut is a strided 1x1 convolution ("pointwise") or a
    strided separable one ("separable", as good a fit to the printed FLOPs).
    """

    features: int
    style: Style
    strides: int
    projection: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        features, style = self.features, self.style
        y = SeparableConv(features // 4, style, self.strides, nn.relu, name="conv1")(
            x, train
        )
        y = SeparableConv(features // 4, style, activation=nn.relu, name="conv2")(
            y, train
        )
        y = SeparableConv(features, style, name="conv3")(y, train)
        if self.strides != 1:
            if self.projection == "pointwise":
                shortcut = ConvBN(
                    features, style, strides=self.strides, name="shortcut"
                )
            elif self.projection == "separable":
                shortcut = SeparableConv(features, style, self.strides, name="shortcut")
            else:
                raise ValueError(
                    f"Xception has no projection {self.projection!r}; "
                    "choose pointwise or separable."
                )
            x = shortcut(x, train)
        return nn.relu(x + y)


class Stage(nn.Module):
    """A row of Table 1: blocks of one width, the first of which halves the size."""

    features: int
    repeats: int
    style: Style
    projection: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i in range(self.repeats):
            x = block(Block, self.style)(
                self.features,
                self.style,
                strides=2 if i == 0 else 1,
                projection=self.projection,
                name=f"blocks_{i}",
            )(x, train)
        return x


class Xception(nn.Module):
    """Images [n, h, w, 3] -> {2: conv1, 4: enc2, 8: enc3, 16: enc4}.

    Attributes:
      features: channels of enc2, enc3 and enc4.
      style: padding, normalisation, initialisation and compute type.
      projection: a strided block's shortcut, "pointwise" or "separable".
      stem: False leaves conv1 out, as in DFANet's later sub-networks: the result is
        then {2: enc2, 4: enc3, 8: enc4}, in strides of the map that came in.
    """

    features: tuple[int, int, int]
    style: Style
    projection: str = "pointwise"
    stem: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        skips: Mapping[str, tuple[jax.Array, ...]] | None = None,
    ) -> dict[int, jax.Array]:
        """`skips` holds maps that are concatenated to the input of a stage, by name."""
        features, stride = {}, 1
        if self.stem:
            stride = 2
            features[stride] = x = block(ConvBN, self.style)(
                STEM_FEATURES, self.style, 3, 2, activation=nn.relu, name="conv1"
            )(x, train)
        for i, (width, repeats) in enumerate(zip(self.features, REPEATS, strict=True)):
            name = f"enc{i + 2}"
            if skips and name in skips:
                x = jnp.concatenate([x, *skips[name]], axis=-1)
            stride *= 2
            features[stride] = x = Stage(
                width, repeats, self.style, self.projection, name=name
            )(x, train)
        return features
