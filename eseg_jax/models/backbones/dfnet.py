"""DF1 and DF2 (Li et al. 2019, "Partial Order Pruning"), encoders of SFNet."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax

from eseg_jax.models.backbones.resnet import BasicBlock
from eseg_jax.models.layers import ConvBN, Style, block


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run of basic blocks, named as in the released files.

    Attributes:
      name: prefix of the blocks' parameters.
      depth: number of blocks.
      width: channels.
      strides: of the first block.
      tap: name of the feature that the stage ends in; "" for none.
    """

    name: str
    depth: int
    width: int
    strides: int
    tap: str = ""


STAGES = {
    "df1": (
        Stage("stage2", 3, 64, 2),
        Stage("stage3", 3, 128, 2, "x3"),
        Stage("stage4", 3, 256, 2, "x4"),
        Stage("stage5", 1, 512, 1, "x5"),
    ),
    "df2": (
        Stage("stage2_1", 2, 64, 2),
        Stage("stage2_2", 1, 128, 1, "x3"),
        Stage("stage3_1", 10, 128, 2),
        Stage("stage3_2", 1, 256, 1, "x4"),
        Stage("stage4_1", 4, 256, 2),
        Stage("stage4_2", 2, 512, 1, "x5"),
    ),
}


class DFNet(nn.Module):
    """Images [n, h, w, 3] -> {"x3", "x4", "x5": feature}, 128, 256, 512 channels.

    The features have no names by stride, because DF1's last two share one: its
    strides are 16, 32, 32; DF2's are 8, 16, 32.
    """

    stages: tuple[Stage, ...]
    style: Style

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        x = images
        for name, features in (("stem1", 32), ("stem2", 64)):
            x = block(ConvBN, self.style)(
                features, self.style, 3, 2, activation=nn.relu, name=name
            )(x, train)
        taps = {}
        for stage in self.stages:
            for i in range(stage.depth):
                x = block(BasicBlock, self.style)(
                    stage.width,
                    stage.strides if i == 0 else 1,
                    self.style,
                    name=f"{stage.name}_{i}",
                )(x, train)
            if stage.tap:
                taps[stage.tap] = x
        return taps
