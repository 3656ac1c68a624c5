"""FRFNet: feature reuse and fusion.

Tan et al. 2021, "Feature Reuse and Fusion for Real-time Semantic Segmentation". A
backbone of dense aggregation modules (DAM) and a decoder that fuses each stage in a
different way: attention (MSC) on the last two, a gate by difference (FFM) at stride
8, a sigmoid (SFM) at stride 4.

No official code exists and the paper leaves most widths and wirings open. They follow
the author's neighbouring work where that shows them and round numbers elsewhere;
the result has 16.095 G multiply-adds at 512x1024 (the paper prints 16.01) and 4.030 M
weights with training heads on CamVid (4.02). That is calibration, not confirmation.
"""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from eseg_jax.models.classifier import Classifier
from eseg_jax.models.info import Info
from eseg_jax.models.layers import (
    PYTORCH,
    Conv,
    ConvBN,
    MaxPool,
    Style,
    block,
    check_choices,
    classifier,
)
from eseg_jax.ops.adaptive_pool import adaptive_avg_pool
from eseg_jax.ops.conv import grouped_pointwise
from eseg_jax.ops.resize import resize_bilinear

# VoVNet-19-slim: the width inside a stage's module, and of its output.
STAGES = ((64, 112), (80, 256), (96, 384), (112, 512))
DECODER_FEATURES = 128
HEAD_FEATURES = 64


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the paper's tables, or one of its ablations.

    Attributes:
      stem: channels of the stem.
      depthwise: FRFNet-slim: depthwise 3x3 convolutions in the DAM's re-use.
      attention: on the two deepest maps: "msc", "fca" (plain FcaNet), "danet" or
        "none".
      ffm: the fusion at stride 8: "gate", "sum", or "strict", the literal reading of
        the paper, which silences most positions.
      threshold: by how much one side must exceed the other to pass the gate.
      sfm: whether the fusion at stride 4 gates the shallow map by its sigmoid.
      aux_heads: two more heads for training, with parameters of their own.
    """

    stem: int = 32
    depthwise: bool = False
    attention: str = "msc"
    ffm: str = "gate"
    threshold: float = 0.4
    sfm: bool = True
    aux_heads: bool = True


_SLIM = Variant(stem=16, depthwise=True)
VARIANTS = {
    "frfnet": Variant(),
    "frfnet_slim": _SLIM,
    "frfnet_danet": Variant(attention="danet"),
    "frfnet_danet_slim": dataclasses.replace(_SLIM, attention="danet"),
    # Table 3; its last row is frfnet.
    "frfnet_baseline": Variant(attention="none", ffm="sum", sfm=False),
    "frfnet_msc": Variant(ffm="sum", sfm=False),
    "frfnet_msc_ffm": Variant(sfm=False),
}

_SIZE = (512, 1024)
_CAMVID = (360, 480)
_TRAINVAL = (
    "Trained on trainval. The paper's abstract gives 69.5, its text 76.4, which is the "
    "Danet variant's."
)
_MATMULS = (
    f"{_TRAINVAL} The printed FLOPs leave out the matrix products of the attention."
)
# The mean alone is subtracted in the paper; a division by nearly equal numbers before
# a convolution with batch normalisation changes nothing, so the library's is kept.
INFO = {
    "frfnet": Info(
        "FRFNet Tables 1, 4",
        _SIZE,
        params_m=4.02,
        with_heads=True,
        flops_g=16.01,
        miou_test=69.5,
        miou_camvid=68.2,
        note=f"{_TRAINVAL} Parameters: 11 classes and, we assume, training heads. "
        "CamVid: 68.2 in Table 4, 68.0 in Table 3.",
    ),
    "frfnet_slim": Info(
        "FRFNet Table 1", _SIZE, flops_g=11.38, miou_test=65.0, note=_TRAINVAL
    ),
    "frfnet_danet": Info(
        "FRFNet Table 2", _SIZE, flops_g=16.01, miou_test=76.4, note=_MATMULS
    ),
    "frfnet_danet_slim": Info(
        "FRFNet Table 2", _SIZE, flops_g=11.38, miou_test=73.6, note=_MATMULS
    ),
    "frfnet_baseline": Info("FRFNet Table 3", _CAMVID, miou_camvid=65.3),
    "frfnet_msc": Info("FRFNet Table 3", _CAMVID, miou_camvid=66.4),
    "frfnet_msc_ffm": Info("FRFNet Table 3", _CAMVID, miou_camvid=67.21),
}

_CHOICES = {
    "attention": ("none", "fca", "msc", "danet"),
    "ffm": ("sum", "gate", "strict"),
}


def create(variant: Variant, num_classes: int, **style) -> FRFNet:
    """Builds the network of a variant; `style` has fields of `layers.Style`."""
    check_choices("FRFNet", variant, _CHOICES)
    return FRFNet(num_classes, variant, dataclasses.replace(PYTORCH, **style))


def create_classifier(variant: Variant, num_classes: int, **style) -> Classifier:
    """The variant's backbone under a classifier; the paper trains from scratch."""
    style = dataclasses.replace(PYTORCH, **style)
    backbone = Backbone(variant.stem, variant.depthwise, style)
    return Classifier(num_classes, backbone, "backbone", style)


class FRFNet(nn.Module):
    """Images [n, h, w, 3] -> {"logits": [n, h / 4, w / 4, classes] float32, "aux"}.

    "aux" is {"p4": at stride 16, "p3": at stride 8} when training with `aux_heads`,
    {} otherwise. Any h and w work: sizes are halved and rounded up.
    """

    num_classes: int
    variant: Variant
    style: Style

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict:
        variant, style = self.variant, self.style

        def conv(name: str, x: jax.Array, features: int, kernel_size: int):
            return block(ConvBN, style)(
                features, style, kernel_size, activation=nn.relu, name=name
            )(x, train)

        def attend(name: str, x: jax.Array) -> jax.Array:
            if variant.attention == "none":
                return x
            kind = {"msc": MSC, "fca": FCA, "danet": DualAttention}[variant.attention]
            return kind(style, name=name)(x)

        features = Backbone(variant.stem, variant.depthwise, style, name="backbone")(
            images, train
        )
        f1, f2, f3, f4 = (features[stride] for stride in (4, 8, 16, 32))
        width = DECODER_FEATURES

        c5 = attend("attention_5", conv("context", f4, width, 3))
        p4 = resize_bilinear(c5, f3.shape[1:3])
        q4 = conv("refine_4", p4, width, 3)
        c4 = attend("attention_4", conv("lateral_4", f3, width, 1)) + q4
        p3 = resize_bilinear(c4, f2.shape[1:3])
        context = conv("refine_3", p3, width, 3)

        x = fuse(context, conv("lateral_3", f2, width, 1), variant)
        x = conv("ffm_3x3", x, f1.shape[-1], 3)
        x = conv("ffm_1x1", x, f1.shape[-1], 1)

        x = resize_bilinear(x, f1.shape[1:3])
        x = x + (nn.sigmoid(f1) * f1 if variant.sfm else f1)
        logits = block(Head, style)(self.num_classes, style, name="head")(x, train)

        aux = {}
        if variant.aux_heads and (train or self.is_initializing()):
            for name, x in (("p4", p4), ("p3", p3)):
                # Initialising without training makes their parameters too; a corner
                # of the map is enough for that.
                x = x if train else x[:, :1, :1]
                head = block(Head, style)(self.num_classes, style, name=f"aux_{name}")
                aux[name] = head(x, train)
        return {"logits": logits, "aux": aux if train else {}}


def fuse(context: jax.Array, detail: jax.Array, variant: Variant) -> jax.Array:
    """The FFM's sum of two maps [n, h, w, c], each strengthened where it leads.

    t1 is sigmoid(context) where that exceeds sigmoid(detail) by more than the
    threshold, else 0; t2 likewise with the two exchanged. The paper says no more:
    context * (1 + t1) + detail * (1 + t2) is our choice, "strict" leaves out the ones.
    The comparison has no gradient.
    """
    if variant.ffm == "sum":
        return context + detail
    p_context, p_detail = nn.sigmoid(context), nn.sigmoid(detail)
    zero = jnp.zeros_like(p_context)
    t1 = jnp.where(p_context - p_detail > variant.threshold, p_context, zero)
    t2 = jnp.where(p_detail - p_context > variant.threshold, p_detail, zero)
    if variant.ffm == "strict":
        return context * t1 + detail * t2
    return context * (1 + t1) + detail * (1 + t2)


class Head(nn.Module):
    """3x3 convolution to 64 channels, then float32 logits."""

    num_classes: int
    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = ConvBN(HEAD_FEATURES, self.style, 3, activation=nn.relu, name="conv")(
            x, train
        )
        return classifier(self.num_classes, self.style)(x)


class Backbone(nn.Module):
    """Images [n, h, w, 3] -> {4, 8, 16, 32: feature} of 112, 256, 384, 512 channels."""

    stem: int
    depthwise: bool
    style: Style

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[int, jax.Array]:
        x = block(Stem, self.style)(self.stem, self.style, name="stem")(images, train)
        features = {}
        for i, (inner, outer) in enumerate(STAGES):
            if i > 0:
                x = block(Transition, self.style)(self.style, name=f"transition_{i}")(
                    x, train
                )
            x = block(DAM, self.style)(
                inner, outer, self.depthwise, self.style, name=f"dam_{i + 1}"
            )(x, train)
            features[4 * 2**i] = x
        return features


class Stem(nn.Module):
    """BiSeNetV2's stem: two ways to halve one map, concatenated; stride 4."""

    features: int
    style: Style

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        c, style, relu = self.features, self.style, nn.relu
        x = ConvBN(c, style, 3, 2, activation=relu, name="conv")(images, train)
        y = ConvBN(c // 2, style, activation=relu, name="reduce")(x, train)
        y = ConvBN(c, style, 3, 2, activation=relu, name="down")(y, train)
        x = jnp.concatenate([y, MaxPool(style)(x)], axis=-1)
        return ConvBN(c, style, 3, activation=relu, name="fuse")(x, train)


class Transition(nn.Module):
    """Halves the size and keeps the channels: half pooled, half convolved."""

    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        half, style, relu = x.shape[-1] // 2, self.style, nn.relu
        x = ConvBN(half, style, activation=relu, name="reduce")(x, train)
        y = ConvBN(half, style, 3, 2, activation=relu, name="down")(x, train)
        return jnp.concatenate([MaxPool(style)(x), y], axis=-1)


class DAM(nn.Module):
    """Dense aggregation module: one-shot aggregation of re-used 3x3 features.

    Cheap 1x1 maps g1, g2 of the first convolution's output x0 (GhostNet's idea) are
    added to what the 3x3 convolutions r1, r2 read; then one 1x1 convolution over
    [x, x0, r1, r2] and a channel gate.
    """

    features: int
    outputs: int
    depthwise: bool
    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        s, style = self.features, self.style

        def conv3x3(name: str, x: jax.Array, depthwise: bool) -> jax.Array:
            return ConvBN(
                s, style, 3, depthwise=depthwise, activation=nn.relu, name=name
            )(x, train)

        x0 = conv3x3("conv", x, depthwise=False)
        g1 = Conv(s, style, use_bias=True, name="cheap_1")(x0)
        g2 = Conv(s, style, use_bias=True, name="cheap_2")(g1)
        r1 = conv3x3("reuse_1", x0 + g1, self.depthwise)
        r2 = conv3x3("reuse_2", g1 + g2, self.depthwise)
        y = jnp.concatenate([x, x0, r1, r2], axis=-1)
        y = ConvBN(self.outputs, style, activation=nn.relu, name="aggregate")(y, train)
        return ECA(style, name="eca")(y)


class ECA(nn.Module):
    """Gates channels by a 3-tap convolution of their means along the channel axis."""

    style: Style

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.style.kernel_init, (3, 1, 1), jnp.float32)
        mean = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        mean = jnp.pad(mean, ((0, 0), (0, 0), (0, 0), (1, 1)))
        c = x.shape[-1]
        taps = [jax.lax.slice_in_dim(mean, i, i + c, axis=-1) for i in range(3)]
        gate = sum(kernel[i, 0, 0] * tap for i, tap in enumerate(taps))
        return x * nn.sigmoid(gate).astype(x.dtype)


# FcaNet's sixteen best frequencies of a 7x7 map, (row, column).
DCT_SIZE = 7
DCT_FREQUENCIES = (
    (0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0),
    (5, 0), (1, 6), (3, 0), (0, 4), (0, 6), (0, 3), (3, 5), (2, 2),
)  # fmt: skip


def dct_basis(channels: int) -> np.ndarray:
    """Cosines [1, 7, 7, channels] float32: each frequency for channels / 16 channels.

    B_u(row) * B_v(column), B_u(i) = cos(pi u (i + 1/2) / 7) / sqrt(7), times sqrt(2)
    if u > 0.
    """
    u, i = np.arange(DCT_SIZE)[:, None], np.arange(DCT_SIZE)[None]
    b = np.cos(math.pi * u * (i + 0.5) / DCT_SIZE) / math.sqrt(DCT_SIZE)
    b[1:] *= math.sqrt(2.0)
    maps = np.stack([np.outer(b[u], b[v]) for u, v in DCT_FREQUENCIES], axis=-1)
    return np.repeat(maps, channels // len(DCT_FREQUENCIES), axis=-1)[None].astype(
        np.float32
    )


def _spectral_gate(x: jax.Array, spectrum: jax.Array, style: Style) -> jax.Array:
    """x, its channels gated by two layers without bias over `spectrum` [n, 1, 1, k]."""
    c = x.shape[-1]
    gate = nn.relu(Conv(c // 16, style, name="squeeze")(spectrum))
    return x * nn.sigmoid(Conv(c, style, name="excite")(gate))


class FCA(nn.Module):
    """FcaNet's channel attention: one frequency for each sixteenth of the channels."""

    style: Style

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = adaptive_avg_pool(x.astype(jnp.float32), DCT_SIZE)
        spectrum = jnp.sum(pooled * dct_basis(x.shape[-1]), axis=(1, 2), keepdims=True)
        return _spectral_gate(x, spectrum, self.style)


class MSC(nn.Module):
    """Multi-spectral channel attention over three small parts of the input.

    The parts are a chain of 1x1 convolutions; each is averaged to 7x7 and multiplied
    by the cosines, the second and third after the product before has been added.
    The paper gives a figure without text; the wiring is that of the author's later
    network.
    """

    style: Style

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        part = x.shape[-1] // 4
        a = GroupedConv(part, self.style, groups=16, name="part_1")(x)
        b = Conv(part, self.style, use_bias=True, name="part_2")(a)
        c = Conv(part, self.style, use_bias=True, name="part_3")(b)
        basis = dct_basis(part)
        product, products = 0.0, []
        for y in (a, b, c):
            pooled = adaptive_avg_pool(y.astype(jnp.float32), DCT_SIZE)
            product = basis * (pooled + product)
            products.append(product)
        spectrum = jnp.sum(
            jnp.concatenate(products, axis=-1), axis=(1, 2), keepdims=True
        )
        return _spectral_gate(x, spectrum, self.style)


class GroupedConv(nn.Module):
    """1x1 convolution with bias, each group of channels by itself.

    The kernel [1, 1, in / groups, out] is PyTorch's, transposed.
    """

    features: int
    style: Style
    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, dtype = x.shape[-1], self.style.dtype
        kernel = self.param(
            "kernel",
            self.style.kernel_init,
            (1, 1, c // self.groups, self.features),
            jnp.float32,
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = grouped_pointwise(x.astype(dtype), kernel.astype(dtype), groups=self.groups)
        return y + bias.astype(dtype).reshape(1, 1, 1, -1)


class DualAttention(nn.Module):
    """DANet's attention over positions plus its attention over channels.

    Memory grows with (h * w)**2: 2048**2 scores at stride 16 of 512x1024. Scores and
    softmax are float32. Where FRFNet-Danet has it is our choice; the paper is silent.
    """

    style: Style

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        style = self.style

        def project(name: str, features: int) -> jax.Array:
            y = Conv(features, style, use_bias=True, name=name)(x)
            return y.reshape(n, h * w, features)

        def weigh(scores: jax.Array) -> jax.Array:
            return nn.softmax(scores, axis=-1).astype(style.dtype)

        # Both branches start as the identity, as in DANet.
        gammas = [
            self.param(f"{kind}_gamma", nn.initializers.zeros, ()).astype(style.dtype)
            for kind in ("position", "channel")
        ]

        query, key = project("query", c // 8), project("key", c // 8)
        scores = jnp.einsum(
            "npc,nqc->npq", query, key, preferred_element_type=jnp.float32
        )
        position = jnp.einsum("npq,nqc->npc", weigh(scores), project("value", c))

        flat = x.reshape(n, h * w, c)
        scores = jnp.einsum(
            "npc,npd->ncd", flat, flat, preferred_element_type=jnp.float32
        )
        # The least alike channels weigh most.
        scores = jnp.max(scores, axis=-1, keepdims=True) - scores
        channel = jnp.einsum("ncd,npd->npc", weigh(scores), flat)

        total = 2 * flat + gammas[0] * position + gammas[1] * channel
        return total.reshape(x.shape)
