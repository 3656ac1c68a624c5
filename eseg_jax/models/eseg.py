"""ESeg: multi-scale feature fusion without high internal resolution.

Meng et al. 2022, "Revisiting Multi-Scale Feature Fusion for Semantic Segmentation".
An EfficientNet encoder, feature levels P2 to P9, a BiFPN decoder and one weighted
sum of all levels. Level l has stride 2**l. What the paper leaves open is decided by
counting: the parameters and multiply-adds below equal the printed ones.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from eseg_jax.models.backbones import efficientnet, resnet
from eseg_jax.models.classifier import Classifier
from eseg_jax.models.info import Info
from eseg_jax.models.layers import (
    PYTORCH,
    TENSORFLOW,
    Activation,
    AvgPool,
    ConvBN,
    MaxPool,
    SeparableConvBN,
    SqueezeExcite,
    Style,
    block,
    classifier,
)
from eseg_jax.ops.resize import resize_bilinear, resize_nearest


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the paper's tables, or one of its ablations.

    Attributes:
      encoder: "b0" … "b7" (EfficientNet's scales), "lite0" … "lite2"
        (EfficientNet-Lite's), "resnet50", or "custom", which takes `width` and `depth`.
      features: channels of the decoder.
      repeats: BiFPN cells.
      fused: ESeg-Lite: Fused-MBConv, ReLU, no SE.
      base_level: finest level; logits have its stride, 2**base_level.
      max_level: coarsest level: 5, 7 or 9 (Table 1).
      decoder: "bifpn" or "fpn" (Table 2).
      fusion: how a BiFPN node normalises its weights: "fast" or "softmax".
      drop_rate: drop-connect rate of the encoder's last block.
    """

    encoder: str
    features: int
    repeats: int
    width: float = 1.0
    depth: float = 1.0
    fused: bool = False
    base_level: int = 2
    max_level: int = 9
    decoder: str = "bifpn"
    fusion: str = "fast"
    drop_rate: float = 0.2


def _lite(width: float, depth: float, features: int, repeats: int) -> Variant:
    return Variant("custom", features, repeats, width, depth, fused=True, base_level=3)


def _effnet_lite(encoder: str, features: int, repeats: int) -> Variant:
    return Variant(encoder, features, repeats, base_level=3)


_S = Variant("b1", 96, 4)
VARIANTS = {
    "eseg_s": _S,
    "eseg_m": Variant("b4", 192, 5),
    "eseg_l": Variant("b7", 288, 6),
    "eseg_lite_s": _lite(0.4, 0.6, 64, 1),
    "eseg_lite_m": _lite(0.6, 1.0, 80, 2),
    "eseg_lite_l": _lite(1.0, 1.0, 96, 3),
    "eseg_s_p2_p5": dataclasses.replace(_S, max_level=5),
    "eseg_s_p2_p7": dataclasses.replace(_S, max_level=7),
    "eseg_s_fpn_p2_p5": dataclasses.replace(_S, max_level=5, decoder="fpn"),
    "eseg_s_fpn_p2_p9": dataclasses.replace(_S, decoder="fpn"),
    "eseg_resnet50": dataclasses.replace(_S, encoder="resnet50"),
    # Ours: the encoders whose ImageNet weights anybody can install, with the levels and
    # decoders of ESeg-Lite-S, M and L.
    "eseg_effnet_lite0": _effnet_lite("lite0", 64, 1),
    "eseg_effnet_lite1": _effnet_lite("lite1", 80, 2),
    "eseg_effnet_lite2": _effnet_lite("lite2", 96, 3),
}

_EFFNET_LITE = Info(
    "no paper: our combination",
    # As EfficientNet-Lite was trained; its weights expect it.
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
)
# What the paper prints at 1024x2048: parameters in millions, FLOPs in G, val mIoU.
INFO = {
    "eseg_s": Info("ESeg Table 4", params_m=6.9, flops_g=34.5, miou=80.1),
    "eseg_m": Info("ESeg Table 4", params_m=20.0, flops_g=112, miou=81.6),
    "eseg_l": Info("ESeg Table 4", params_m=70.5, flops_g=343, miou=82.6),
    "eseg_lite_s": Info("ESeg §3.2", flops_g=17, miou=76.0),
    "eseg_lite_m": Info("ESeg Table 6", miou=78.6),
    "eseg_lite_l": Info("ESeg Table 6", miou=80.1),
    "eseg_s_p2_p5": Info("ESeg Table 1", params_m=6.4, flops_g=34.3, miou=78.3),
    "eseg_s_p2_p7": Info("ESeg Table 1", params_m=6.6, flops_g=34.5, miou=79.5),
    "eseg_s_fpn_p2_p5": Info("ESeg Table 2", flops_g=39.8, miou=78.0),
    "eseg_s_fpn_p2_p9": Info("ESeg Table 2", flops_g=40.0, miou=79.1),
    "eseg_resnet50": Info("ESeg Table 8", flops_g=188.0, miou=78.9),
    "eseg_effnet_lite0": _EFFNET_LITE,
    "eseg_effnet_lite1": _EFFNET_LITE,
    "eseg_effnet_lite2": _EFFNET_LITE,
}


def create(variant: Variant, num_classes: int, **style) -> ESeg:
    """Builds the network of a variant; `style` has fields of `layers.Style`."""
    style = dataclasses.replace(TENSORFLOW, **style)
    return ESeg(num_classes, _encoder(variant, style), variant, style)


def create_classifier(variant: Variant, num_classes: int, **style) -> Classifier:
    """The variant's encoder under a classifier, as in its own paper."""
    style = dataclasses.replace(TENSORFLOW, **style)
    encoder = _encoder(variant, style)
    if not isinstance(encoder, efficientnet.EfficientNet):
        return Classifier(num_classes, encoder, "encoder", style)
    features = encoder.outer_features(efficientnet.HEAD_FEATURES)
    return Classifier(
        num_classes, encoder, "encoder", style, features, encoder.activation
    )


def _encoder(variant: Variant, style: Style) -> nn.Module:
    if variant.encoder in resnet.DEPTHS:
        # In the manner of PyTorch, whose public ImageNet weights then fit exactly.
        return resnet.ResNet(
            resnet.DEPTHS[variant.encoder],
            dataclasses.replace(PYTORCH, dtype=style.dtype, remat=style.remat),
        )
    if variant.encoder in efficientnet.SCALES or variant.encoder == "custom":
        width, depth = efficientnet.SCALES.get(
            variant.encoder, (variant.width, variant.depth)
        )
        return efficientnet.EfficientNet(
            width, depth, style, variant.fused, variant.drop_rate
        )
    if variant.encoder in efficientnet.LITE_SCALES:
        width, depth = efficientnet.LITE_SCALES[variant.encoder]
        return efficientnet.EfficientNet(
            width, depth, style, drop_rate=variant.drop_rate, lite=True
        )
    known = ", ".join(
        [*efficientnet.SCALES, *efficientnet.LITE_SCALES, *resnet.DEPTHS, "custom"]
    )
    raise ValueError(f"ESeg has no encoder {variant.encoder!r}; choose one of {known}.")


class ESeg(nn.Module):
    """Images [n, h, w, 3] -> {"logits": [n, h / s, w / s, classes] float32, "aux": {}}.

    s is 2**base_level: 4, or 8 for the Lite variants. Any h and w work; where they
    are odd, a level has half the size rounded up.
    """

    num_classes: int
    encoder: nn.Module
    variant: Variant
    style: Style

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict:
        variant, style = self.variant, self.style
        lite = variant.encoder in efficientnet.LITE_SCALES
        activation = nn.relu if variant.fused or lite else nn.swish
        taps = self.encoder(images, train)
        levels = {
            level: taps[2**level]
            for level in range(variant.base_level, min(variant.max_level, 5) + 1)
        }
        # "3x3 stride-2 pooling" of P5, at the encoder's width (§3.1, Figure 3).
        for level in range(6, variant.max_level + 1):
            levels[level] = AvgPool(style)(levels[level - 1])
        # One 1x1 projection a level, shared by every edge of the first cell: the
        # reading that gives all five printed parameter counts.
        levels = {
            level: ConvBN(variant.features, style, name=f"lateral_p{level}")(x, train)
            for level, x in levels.items()
        }
        if variant.decoder == "bifpn":
            for repeat in range(variant.repeats):
                levels = block(BiFPNCell, style)(
                    style, activation, variant.fusion, name=f"bifpn_{repeat}"
                )(levels, train)
        elif variant.decoder == "fpn":
            levels = block(FPN, style)(style, activation, name="fpn")(levels, train)
        else:
            raise ValueError(
                f"ESeg has no decoder {variant.decoder!r}; choose bifpn or fpn."
            )
        x = LevelSum(name="level_sum")(levels)
        x = block(SeparableConvBN, style)(
            variant.features, style, activation, name="head"
        )(x, train)
        return {"logits": classifier(self.num_classes, style)(x), "aux": {}}

    @nn.nowrap
    def extra_flops(self, module: nn.Module, inputs: tuple, output: jax.Array) -> float:
        """FLOPs that the paper counts beside multiply-adds, for one module's call.

        Half of some elementwise operations, as EfficientDet's profiler counts them.
        Inferred: with these the eight printed figures come out.
        """
        match module:
            case ConvBN(activation=nn.swish):
                operations = 1
            case SqueezeExcite():  # the mean and the product
                operations = 2
            case AvgPool() | MaxPool():
                operations = 9
            case Fusion() | LevelSum():  # a product each and the additions
                operations = 2 * len(inputs[0]) - 1
            case _:
                return 0.0
        return operations * output.size / 2


class BiFPNCell(nn.Module):
    """One pass down and one pass up over all levels (EfficientDet's topology)."""

    style: Style
    activation: Activation
    fusion: str

    @nn.compact
    def __call__(
        self, inputs: dict[int, jax.Array], train: bool
    ) -> dict[int, jax.Array]:
        first, *middle, last = sorted(inputs)

        def node(name: str, *features: jax.Array) -> jax.Array:
            fused = Fusion(self.fusion, name=f"{name}_fusion")(features)
            return SeparableConvBN(
                fused.shape[-1], self.style, self.activation, name=name
            )(fused, train)

        down = {last: inputs[last]}
        for level in [*reversed(middle), first]:
            x, coarser = inputs[level], down[level + 1]
            down[level] = node(
                f"down_p{level}", x, resize_nearest(coarser, x.shape[1:3])
            )
        outputs = {first: down[first]}
        for level in middle:
            finer = MaxPool(self.style)(outputs[level - 1])
            outputs[level] = node(f"up_p{level}", inputs[level], down[level], finer)
        finer = MaxPool(self.style)(outputs[last - 1])
        outputs[last] = node(f"up_p{last}", inputs[last], finer)
        return outputs


class Fusion(nn.Module):
    """Weighted mean of equally shaped features with one learnt scalar each.

    "fast" is EfficientDet's relu(w_i) / (sum_j relu(w_j) + 1e-4); "softmax" its
    costlier twin.
    """

    kind: str

    @nn.compact
    def __call__(self, features: tuple[jax.Array, ...]) -> jax.Array:
        weights = _weights(self, len(features)).astype(features[0].dtype)
        return sum(weights[i] * x for i, x in enumerate(features))

    @nn.nowrap
    def normalised(self, weights: jax.Array) -> jax.Array:
        """What the parameters stand for."""
        if self.kind == "fast":
            weights = nn.relu(weights)
            return weights / (jnp.sum(weights) + 1e-4)
        if self.kind == "softmax":
            return nn.softmax(weights)
        raise ValueError(f"ESeg has no fusion {self.kind!r}; choose fast or softmax.")


def _weights(module: Fusion | LevelSum, count: int) -> jax.Array:
    """The module's normalised weights [count]; folded variables hold them as such."""
    if module.has_variable("params", "normalised"):
        return module.get_variable("params", "normalised")
    weights = module.param("weights", nn.initializers.ones, (count,))
    return module.normalised(weights)


class FPN(nn.Module):
    """The top-down baseline of Table 2: additions, then a dense 3x3 for each level."""

    style: Style
    activation: Activation

    @nn.compact
    def __call__(
        self, inputs: dict[int, jax.Array], train: bool
    ) -> dict[int, jax.Array]:
        sums, above = {}, None
        for level in sorted(inputs, reverse=True):
            x = inputs[level]
            if above is not None:
                x = x + resize_nearest(above, x.shape[1:3])
            sums[level] = above = x
        return {
            level: ConvBN(
                x.shape[-1], self.style, 3, activation=self.activation, name=f"p{level}"
            )(x, train)
            for level, x in sums.items()
        }


class LevelSum(nn.Module):
    """O = sum_l softmax(w)_l * up(P_l), every level enlarged straight to the finest.

    §3.1, the equation of the simplified fusion; bilinear with half-pixel centres is
    our choice. The weight goes before the enlargement, which is linear: the same sum
    for a fraction of the multiplications.
    """

    @nn.compact
    def __call__(self, levels: dict[int, jax.Array]) -> jax.Array:
        weights = _weights(self, len(levels))
        finest = levels[min(levels)]
        total = jnp.zeros_like(finest)
        for i, level in enumerate(sorted(levels)):
            x = levels[level] * weights[i].astype(finest.dtype)
            total = total + resize_bilinear(x, finest.shape[1:3])
        return total

    @nn.nowrap
    def normalised(self, weights: jax.Array) -> jax.Array:
        """What the parameters stand for."""
        return nn.softmax(weights)
