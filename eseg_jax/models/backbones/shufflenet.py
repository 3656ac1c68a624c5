"""ShuffleNetV2 x1.5 (Ma et al. 2018), an encoder of SFNet."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from eseg_jax.models.layers import ConvBN, MaxPool, Style, block

STEM_FEATURES = 24
# (blocks, channels) of the stages at strides 8, 16 and 32.
STAGES = ((4, 176), (8, 352), (4, 704))
LAST_FEATURES = 1024


class ShuffleUnit(nn.Module):
    """Half of the channels through 1x1, depthwise 3x3, 1x1; then both are shuffled.

    The other half passes as it is. With stride 2 both halves read all channels, and
    the other one goes through depthwise 3x3 and 1x1.
    """

    features: int
    strides: int
    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        half = self.features // 2

        def pointwise(name: str, x: jax.Array) -> jax.Array:
            return ConvBN(half, self.style, activation=nn.relu, name=name)(x, train)

        def depthwise(name: str, x: jax.Array) -> jax.Array:
            return ConvBN(
                x.shape[-1], self.style, 3, self.strides, depthwise=True, name=name
            )(x, train)

        if self.strides == 1:
            kept, x = jnp.split(x, 2, axis=-1)
        else:
            kept = pointwise("branch1_pointwise", depthwise("branch1_depthwise", x))
        x = pointwise("branch2_expand", x)
        x = depthwise("branch2_depthwise", x)
        x = pointwise("branch2_project", x)
        # Shuffled in two groups: one channel from each in turn.
        return jnp.stack([kept, x], axis=-1).reshape(*x.shape[:3], self.features)


class ShuffleNetV2(nn.Module):
    """Images [n, h, w, 3] -> {2, 4, 8, 16, 32: feature}.

    Attributes:
      style: padding, normalisation, initialisation and compute type.
      ceil_mode: of the max pooling.
    """

    style: Style
    ceil_mode: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[int, jax.Array]:
        x = block(ConvBN, self.style)(
            STEM_FEATURES, self.style, 3, 2, activation=nn.relu, name="stem"
        )(images, train)
        taps = {2: x}
        x = taps[4] = MaxPool(self.style, self.ceil_mode)(x)
        for stage, (depth, width) in enumerate(STAGES):
            for i in range(depth):
                x = block(ShuffleUnit, self.style)(
                    width,
                    strides=2 if i == 0 else 1,
                    style=self.style,
                    name=f"stage{stage + 2}_{i}",
                )(x, train)
            taps[8 * 2**stage] = x
        taps[32] = block(ConvBN, self.style)(
            LAST_FEATURES, self.style, activation=nn.relu, name="conv5"
        )(x, train)
        return taps
