"""EfficientNet, its Lite family, and its fused form for ESeg-Lite (ESeg §3.2, §4.1).

EfficientNet-Lite is Google's for integer arithmetic: ReLU6, no squeeze-excite, and a
stem, first and last stage and head that do not grow with the scale. It has nothing to
do with ESeg-Lite. The encoder ends with stage 7; the classifier's 1x1 head convolution
is added for pre-training alone.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import flax.linen as nn
import jax

from eseg_jax.models.layers import (
    Activation,
    ConvBN,
    DropConnect,
    SqueezeExcite,
    Style,
    block,
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A row of EfficientNet's table of stages, for width and depth 1."""

    repeats: int
    kernel_size: int
    strides: int
    expand: int
    features: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM_FEATURES = 32
HEAD_FEATURES = 1280

# name: (width, depth), from EfficientNet's compound scaling.
SCALES = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}
# EfficientNet-Lite, as its builder's table (efficientnet_lite_builder.py).
LITE_SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}


def round_features(features: int, width: float) -> int:
    """Scales a channel count and rounds it to a multiple of 8, losing < 10 %."""
    scaled = features * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def stage_repeats(depth: float, lite: bool = False) -> list[int]:
    """Blocks of each stage; Lite's first and last stage do not grow."""
    repeats = [math.ceil(depth * stage.repeats) for stage in STAGES]
    if lite:
        repeats[0], repeats[-1] = STAGES[0].repeats, STAGES[-1].repeats
    return repeats


class MBConv(nn.Module):
    """Inverted residual block: expand, depthwise, squeeze-excite, project."""

    stage: Stage
    strides: int
    features: int
    drop_rate: float
    style: Style
    activation: Activation
    squeeze: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        inputs, y = x.shape[-1], x
        expanded = inputs * self.stage.expand
        if self.stage.expand != 1:
            y = ConvBN(expanded, self.style, activation=self.activation, name="expand")(
                y, train
            )
        y = ConvBN(
            expanded,
            self.style,
            self.stage.kernel_size,
            self.strides,
            depthwise=True,
            activation=self.activation,
            name="depthwise",
        )(y, train)
        if self.squeeze:
            # The squeeze width follows the block's input, not the expanded width.
            reduced = max(1, inputs // 4)
            y = SqueezeExcite(reduced, self.style, self.activation, name="se")(y)
        y = ConvBN(self.features, self.style, name="project")(y, train)
        if self.strides == 1 and inputs == self.features:
            y = x + DropConnect(self.drop_rate)(y, train)
        return y


class FusedMBConv(nn.Module):
    """Fused form: one dense convolution expands, a 1x1 projects; no SE (§4.1).

    A block that does not expand is a single dense convolution, as in
    EfficientNetV2; with it ESeg-Lite-S has the 17 G multiply-adds of Table 3.
    """

    stage: Stage
    strides: int
    features: int
    drop_rate: float
    style: Style
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        inputs, kernel_size = x.shape[-1], self.stage.kernel_size
        if self.stage.expand == 1:
            y = ConvBN(
                self.features,
                self.style,
                kernel_size,
                self.strides,
                activation=self.activation,
                name="fused",
            )(x, train)
        else:
            y = ConvBN(
                inputs * self.stage.expand,
                self.style,
                kernel_size,
                self.strides,
                activation=self.activation,
                name="fused",
            )(x, train)
            y = ConvBN(self.features, self.style, name="project")(y, train)
        if self.strides == 1 and inputs == self.features:
            y = x + DropConnect(self.drop_rate)(y, train)
        return y


class EfficientNet(nn.Module):
    """Images [n, h, w, 3] -> {2, 4, 8, 16, 32: feature}.

    A feature is the output of the last block before the next stride-2 block.

    Attributes:
      width: multiplier of the channel counts.
      depth: multiplier of the repeats, rounded up.
      style: padding, normalisation, initialisation and compute type.
      fused: Fused-MBConv with ReLU instead of MBConv with SE and swish.
      drop_rate: drop-connect rate that block i of N takes i / N of.
      lite: EfficientNet-Lite: ReLU6, no SE, and neither the stem's and head's width
        nor the repeats of the first and last stage are scaled.
    """

    width: float
    depth: float
    style: Style
    fused: bool = False
    drop_rate: float = 0.2
    lite: bool = False

    @property
    def activation(self) -> Activation:
        if self.fused:
            return nn.relu
        return nn.relu6 if self.lite else nn.swish

    def outer_features(self, features: int) -> int:
        """The width of the stem or of the classifier's head."""
        return features if self.lite else round_features(features, self.width)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[int, jax.Array]:
        activation = self.activation
        if self.fused:
            block_type = block(FusedMBConv, self.style)
        else:
            block_type = functools.partial(
                block(MBConv, self.style), squeeze=not self.lite
            )
        repeats = stage_repeats(self.depth, self.lite)
        total = sum(repeats)

        x = block(ConvBN, self.style)(
            self.outer_features(STEM_FEATURES),
            self.style,
            kernel_size=3,
            strides=2,
            activation=activation,
            name="stem",
        )(images, train)
        features, stride, index = {}, 2, 0
        for stage, count in zip(STAGES, repeats, strict=True):
            if stage.strides == 2:
                features[stride] = x
                stride *= 2
            for repeat in range(count):
                x = block_type(
                    stage,
                    stage.strides if repeat == 0 else 1,
                    round_features(stage.features, self.width),
                    self.drop_rate * index / total,
                    self.style,
                    activation,
                    name=f"blocks_{index}",
                )(x, train)
                index += 1
        features[stride] = x
        return features
