"""ResNet encoders (He et al. 2016), for SFNet and ESeg's encoder ablation."""

from __future__ import annotations

import flax.linen as nn
import jax

from eseg_jax.models.layers import ConvBN, MaxPool, Style, block

# name: (kind of block, number of them in each of the four stages).
DEPTHS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
# Of the 3x3 convolutions of the third and fourth stage, when asked for.
DILATIONS = (1, 1, 2, 4)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first carries the stride, the second the dilation."""

    width: int
    strides: int
    style: Style
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width, style = self.width, self.style
        y = ConvBN(width, style, 3, self.strides, activation=nn.relu, name="conv1")(
            x, train
        )
        y = ConvBN(width, style, 3, dilation=self.dilation, name="conv2")(y, train)
        if self.strides != 1 or x.shape[-1] != y.shape[-1]:
            x = ConvBN(width, style, 1, self.strides, name="downsample")(x, train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, "v1.5", and dilation), 1x1 to four times the width."""

    width: int
    strides: int
    style: Style
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = ConvBN(self.width, self.style, activation=nn.relu, name="conv1")(x, train)
        y = ConvBN(
            self.width,
            self.style,
            3,
            self.strides,
            self.dilation,
            activation=nn.relu,
            name="conv2",
        )(y, train)
        y = ConvBN(4 * self.width, self.style, name="conv3")(y, train)
        if self.strides != 1 or x.shape[-1] != y.shape[-1]:
            x = ConvBN(4 * self.width, self.style, 1, self.strides, name="downsample")(
                x, train
            )
        return nn.relu(x + y)


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Images [n, h, w, 3] -> {2, 4, 8, 16, 32: feature}.

    Attributes:
      depths: a value of `DEPTHS`.
      style: padding, normalisation, initialisation and compute type.
      deep_stem: three 3x3 convolutions to 128 channels instead of one 7x7 to 64.
      dilated: dilation 2 and 4 in the last two stages. The strides stay: SFNet's
        released networks widen the field of view and keep the size.
      ceil_mode: of the max pooling; even sizes are then odd from stride 4 on.
    """

    depths: tuple[str, tuple[int, ...]]
    style: Style
    deep_stem: bool = False
    dilated: bool = False
    ceil_mode: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[int, jax.Array]:
        def conv(name: str, x: jax.Array, features: int, size: int, strides: int):
            return block(ConvBN, self.style)(
                features, self.style, size, strides, activation=nn.relu, name=name
            )(x, train)

        if self.deep_stem:
            x = conv("stem1", images, 64, 3, 2)
            x = conv("stem2", x, 64, 3, 1)
            x = conv("stem3", x, 128, 3, 1)
        else:
            x = conv("stem", images, 64, 7, 2)
        features = {2: x}
        x = MaxPool(self.style, self.ceil_mode)(x)
        kind, depths = self.depths
        for stage, depth in enumerate(depths):
            for i in range(depth):
                x = block(BLOCKS[kind], self.style)(
                    64 * 2**stage,
                    strides=2 if stage > 0 and i == 0 else 1,
                    style=self.style,
                    dilation=DILATIONS[stage] if self.dilated else 1,
                    name=f"layer{stage + 1}_{i}",
                )(x, train)
            features[4 * 2**stage] = x
        return features
