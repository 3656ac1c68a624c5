"""ResNet encoders (He et al. 2016), for ESeg's encoder ablation (ESeg Table 8)."""

from __future__ import annotations

import flax.linen as nn
import jax

from eseg_jax.models.layers import ConvBN, MaxPool, Style

# name: number of bottleneck blocks in each of the four stages.
DEPTHS = {"resnet50": (3, 4, 6, 3)}


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride: "v1.5"), 1x1 to four times the width."""

    width: int
    strides: int
    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = ConvBN(self.width, self.style, activation=nn.relu, name="conv1")(x, train)
        y = ConvBN(
            self.width, self.style, 3, self.strides, activation=nn.relu, name="conv2"
        )(y, train)
        y = ConvBN(4 * self.width, self.style, name="conv3")(y, train)
        if x.shape != y.shape:
            x = ConvBN(4 * self.width, self.style, 1, self.strides, name="downsample")(
                x, train
            )
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Images [n, h, w, 3] -> {2, 4, 8, 16, 32: feature}."""

    depths: tuple[int, ...]
    style: Style

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[int, jax.Array]:
        x = ConvBN(64, self.style, 7, 2, activation=nn.relu, name="stem")(images, train)
        features = {2: x}
        x = MaxPool(self.style)(x)
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                x = Bottleneck(
                    64 * 2**stage,
                    strides=2 if stage > 0 and block == 0 else 1,
                    style=self.style,
                    name=f"layer{stage + 1}_{block}",
                )(x, train)
            features[4 * 2**stage] = x
        return features
