"""DFANet: deep feature aggregation.

Li et al. 2019, "DFANet: Deep Feature Aggregation for Real-Time Semantic
Segmentation". A chain of small Xceptions, each of which refines the enlarged result
of the one before and reads its stages, then a decoder of a few convolutions.

No official code exists. The paper's "FLOPs" are multiply-adds at 1024x1024, and its
"Params (M)" cannot be weights: they are megabytes of float32. Where the text leaves a
choice the counts decide: DFANet A has 1,838,667 weights (7.5 MB; the paper prints 7.8)
and 3.421 G multiply-adds (3.4).
"""

from __future__ import annotations

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp

from eseg_jax.models.backbones import xception
from eseg_jax.models.classifier import Classifier
from eseg_jax.models.info import Info
from eseg_jax.models.layers import (
    PYTORCH,
    Conv,
    ConvBN,
    Style,
    block,
    check_choices,
    classifier,
)
from eseg_jax.ops.resize import resize_bilinear

# The fully connected layer of the attention is ImageNet's classifier (§3.3).
FC_FEATURES = 1000
# Printed nowhere; 32 and a 3x3 convolution over LL are what gives the printed FLOPs.
DECODER_FEATURES = 32
# Printed nowhere; with 192 Table 2's ASPP rows count 6.66 and 4.43 G (6.9 and 4.4).
ASPP_FEATURES = 192
ASPP_RATES = (6, 12, 18)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the paper's tables, or one of its ablations.

    Attributes:
      backbone: Xception "a" or "b".
      sub_networks: length of the chain.
      decoder: "naive" (classify the last map), "aspp" (the last map through an atrous
        pyramid; Table 2), "hl" (the sum of the deep maps) or "hl_ll" (and of the
        shallow ones).
      attention: the fully connected attention; False is Table 2's plain Xception.
      aggregation: what a sub-network hands to the next. "text" is what the paper
        says. Two additions come nearer to its "Params": "attended_skip", enc4 too
        reads the attended map, and "wide_attention", the attention also gates enc2.
      projection: a strided block's shortcut, "pointwise" or "separable".
      hl_smooth: a 3x3 convolution over the sum of the deep maps.
    """

    backbone: str
    sub_networks: int
    decoder: str = "naive"
    attention: bool = True
    aggregation: str = "text"
    projection: str = "pointwise"
    hl_smooth: bool = False


VARIANTS = {
    "dfanet_a": Variant("a", 3, "hl_ll"),
    "dfanet_b": Variant("b", 3, "hl_ll"),
    "dfanet_a_prime": Variant("a", 3, "hl_ll"),
    # Table 2.
    "dfanet_a_xception": Variant("a", 1, attention=False),
    "dfanet_a_xception_aspp": Variant("a", 1, "aspp", attention=False),
    "dfanet_b_xception": Variant("b", 1, attention=False),
    "dfanet_b_xception_aspp": Variant("b", 1, "aspp", attention=False),
    # Table 3.
    "dfanet_a_x1": Variant("a", 1),
    "dfanet_a_x2": Variant("a", 2),
    "dfanet_a_x3": Variant("a", 3),
    "dfanet_a_x4": Variant("a", 4),
    "dfanet_b_x1": Variant("b", 1),
    "dfanet_b_x2": Variant("b", 2),
    "dfanet_b_x3": Variant("b", 3),
    "dfanet_b_x4": Variant("b", 4),
    # Table 4, whose last rows of A and B are dfanet_a and dfanet_b.
    "dfanet_a_x2_hl": Variant("a", 2, "hl"),
    "dfanet_a_x2_hl_ll": Variant("a", 2, "hl_ll"),
    "dfanet_a_x3_hl": Variant("a", 3, "hl"),
    "dfanet_b_x3_hl": Variant("b", 3, "hl"),
}


_UNIT = "The paper prints the size under 'Params (M)'; it can only be megabytes."
_REPRODUCED = (
    f"{_UNIT} 71.9 has not been reproduced in public: the best figure found is 65.28."
)


def _row(table: int, flops_g: float, miou: float, size_mb: float | None = None) -> Info:
    return Info(
        f"DFANet Table {table}",
        (1024, 1024),
        size_mb=size_mb,
        flops_g=flops_g,
        miou=miou,
        note=_UNIT if size_mb else "",
    )


# FLOPs in G at 1024x1024, val mIoU, megabytes.
INFO = {
    "dfanet_a": dataclasses.replace(
        _row(4, 3.4, 71.9, 7.8), miou_test=71.3, miou_camvid=64.7, note=_REPRODUCED
    ),
    # Table 5 prints 4.8 for the size that Table 4 gives as 4.9.
    "dfanet_b": dataclasses.replace(
        _row(4, 2.1, 68.4, 4.9), miou_test=67.1, miou_camvid=59.3
    ),
    "dfanet_a_prime": Info(
        "DFANet Table 5",
        (512, 1024),
        size_mb=7.8,
        flops_g=1.7,
        miou_test=70.3,
        note=_UNIT,
    ),
    "dfanet_a_xception": _row(2, 1.6, 59.2),
    "dfanet_a_xception_aspp": _row(2, 6.9, 67.1),
    "dfanet_b_xception": _row(2, 0.83, 55.4),
    "dfanet_b_xception_aspp": _row(2, 4.4, 64.7),
    "dfanet_a_x1": _row(3, 1.6, 65.4, 2.1),
    "dfanet_a_x2": _row(3, 2.4, 66.3, 4.9),
    "dfanet_a_x3": _row(3, 2.6, 65.1, 7.6),
    "dfanet_a_x4": _row(3, 2.7, 50.8, 10.2),
    "dfanet_b_x1": _row(3, 0.83, 59.2, 1.4),
    "dfanet_b_x2": _row(3, 1.2, 62.1, 3.1),
    "dfanet_b_x3": _row(3, 1.4, 58.2, 4.7),
    "dfanet_b_x4": _row(3, 1.5, 50.7, 6.3),
    "dfanet_a_x2_hl": _row(4, 2.5, 67.1, 5.0),
    "dfanet_a_x2_hl_ll": _row(4, 3.2, 69.4, 5.1),
    "dfanet_a_x3_hl": _row(4, 2.7, 69.6, 7.7),
    "dfanet_b_x3_hl": _row(4, 1.5, 67.6, 4.9),
}

_CHOICES = {
    "backbone": tuple(xception.FEATURES),
    "decoder": ("naive", "aspp", "hl", "hl_ll"),
    "aggregation": ("text", "attended_skip", "wide_attention"),
}


def create(variant: Variant, num_classes: int, **style) -> DFANet:
    """Builds the network of a variant; `style` has fields of `layers.Style`."""
    check_choices("DFANet", variant, _CHOICES)
    if variant.sub_networks < 1:
        raise ValueError(
            f"DFANet needs at least one sub-network, not {variant.sub_networks}; "
            "raise sub_networks."
        )
    if variant.aggregation == "wide_attention" and not variant.attention:
        raise ValueError(
            "DFANet's aggregation wide_attention is a form of the attention; "
            "set attention=True or another aggregation."
        )
    return DFANet(num_classes, variant, dataclasses.replace(PYTORCH, **style))


def create_classifier(variant: Variant, num_classes: int, **style) -> Classifier:
    """The first sub-network's Xception under ImageNet's classifier (§4.1).

    That classifier is the attention's fully connected layer; the attention itself
    has no part in pre-training (our choice).
    """
    style = dataclasses.replace(PYTORCH, **style)
    backbone = xception.Xception(
        xception.FEATURES[variant.backbone], style, variant.projection
    )
    return Classifier(num_classes, backbone, "backbone_1", style)


class DFANet(nn.Module):
    """Images [n, h, w, 3] -> {"logits": [n, h / s, w / s, classes] float32, "aux": {}}.

    s is 4 with the decoder "hl_ll", 16 with "hl", 8 * 2**sub_networks otherwise. Any
    h and w work; maps are resized to their partner's size, never by a factor.
    """

    num_classes: int
    variant: Variant
    style: Style

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict:
        variant, style = self.variant, self.style
        x, skips = images, {}
        shallow, deep = [], []
        for n in range(1, variant.sub_networks + 1):
            is_last = n == variant.sub_networks
            features = xception.Xception(
                xception.FEATURES[variant.backbone],
                style,
                variant.projection,
                stem=n == 1,
                name=f"backbone_{n}",
            )(x, train, skips)
            enc2, enc3, enc4 = (features[s] for s in sorted(features)[-3:])
            attended, low = enc4, enc2
            if variant.attention:
                attend = FCAttention(style, name=f"attention_{n}")
                if variant.aggregation == "wide_attention" and not is_last:
                    attended, low = attend(enc4, enc2)
                else:
                    (attended,) = attend(enc4)
            shallow.append(enc2)
            deep.append(attended)
            if is_last:
                break
            # Sub-network aggregation: the result, enlarged, is the next one's input.
            x = jnp.concatenate(
                [low, resize_bilinear(attended, low.shape[1:3])], axis=-1
            )
            # Sub-stage aggregation: stage i reads stage i. Equation 1's residual of the
            # concatenation is the first block's projection.
            skips = {"enc3": (enc3,), "enc4": (enc4,)}
            if variant.aggregation == "attended_skip":
                skips["enc4"] = (enc4, attended)

        if variant.decoder == "naive":
            x = deep[-1]
        elif variant.decoder == "aspp":
            x = block(ASPP, style)(style, name="aspp")(deep[-1], train)
        else:
            x = block(Sum, style)(style, smooth=variant.hl_smooth, name="hl")(
                deep, train
            )
            if variant.decoder == "hl_ll":
                low = block(Sum, style)(style, smooth=True, name="ll")(shallow, train)
                x = low + resize_bilinear(x, low.shape[1:3])
        return {"logits": classifier(self.num_classes, style)(x), "aux": {}}


class FCAttention(nn.Module):
    """Gates the channels of maps by the first one's mean (§3.3).

    Global average -> ImageNet's classifier -> 1x1 convolution -> one factor for each
    channel of each map. The paper names no activation; the sigmoid is our choice. No
    batch normalisation: its statistics would come from the batch axis alone.
    """

    style: Style

    @nn.compact
    def __call__(self, *maps: jax.Array) -> list[jax.Array]:
        channels = [x.shape[-1] for x in maps]
        gate = jnp.mean(maps[0], axis=(1, 2), keepdims=True, dtype=jnp.float32)
        gate = Conv(FC_FEATURES, self.style, use_bias=True, name="fc")(gate)
        gate = Conv(sum(channels), self.style, use_bias=True, name="reduce")(gate)
        ends = list(itertools.accumulate(channels))[:-1]
        gates = jnp.split(jax.nn.sigmoid(gate), ends, axis=-1)
        return [x * gate for x, gate in zip(maps, gates, strict=True)]


class Sum(nn.Module):
    """One map of each sub-network through a 1x1 convolution, at the first's size.

    `smooth` convolves the sum with a 3x3 kernel.
    """

    style: Style
    smooth: bool

    @nn.compact
    def __call__(self, maps: list[jax.Array], train: bool) -> jax.Array:
        total = 0
        for n, x in enumerate(maps, start=1):
            x = ConvBN(
                DECODER_FEATURES, self.style, activation=nn.relu, name=f"reduce_{n}"
            )(x, train)
            total = total + resize_bilinear(x, maps[0].shape[1:3])
        if self.smooth:
            total = ConvBN(
                DECODER_FEATURES, self.style, 3, activation=nn.relu, name="smooth"
            )(total, train)
        return total


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (DeepLabV3) for Table 2's comparison.

    The paper prints neither width nor rates: the rates are DeepLabV3's for stride 16,
    the width is the round number that comes nearest to the printed FLOPs.
    """

    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def layer(name: str, x: jax.Array, kernel_size: int = 1, rate: int = 1):
            return ConvBN(
                ASPP_FEATURES,
                self.style,
                kernel_size,
                dilation=rate,
                activation=nn.relu,
                name=name,
            )(x, train)

        branches = [layer("rate_1", x)]
        branches += [layer(f"rate_{rate}", x, 3, rate) for rate in ASPP_RATES]
        pooled = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        # A bias, not batch normalisation, over one pixel an image.
        pooled = Conv(ASPP_FEATURES, self.style, use_bias=True, name="pooled")(pooled)
        pooled = jnp.broadcast_to(nn.relu(pooled), branches[0].shape)
        return layer("project", jnp.concatenate([*branches, pooled], axis=-1))
