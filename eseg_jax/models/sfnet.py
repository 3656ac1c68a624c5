"""SFNet: semantic flow.

Li et al. 2020, "Semantic Flow for Fast and Accurate Scene Parsing". An encoder, a
pyramid pooling module (PPM) on its last feature and a feature pyramid whose top-down
steps are warps along a learnt flow (FAM) instead of enlargements.

Where the text is silent the authors' code decides. The two differ, so there are two
presets: the paper's, whose multiply-adds equal the printed ones, and the released
networks' (`…_official`), for which weights exist. Levels count from 0, the finest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from eseg_jax.models.backbones import dfnet, resnet, shufflenet
from eseg_jax.models.classifier import Classifier
from eseg_jax.models.info import Info
from eseg_jax.models.layers import (
    PYTORCH,
    BatchNorm,
    Conv,
    ConvBN,
    MaxPool,
    Style,
    block,
    check_choices,
    classifier,
)
from eseg_jax.ops.adaptive_pool import adaptive_avg_pool
from eseg_jax.ops.resize import resize_bilinear, resize_nearest
from eseg_jax.ops.resize_corners import resize_align_corners
from eseg_jax.ops.warp import bilinear_warp

Resize = Callable[[jax.Array, tuple[int, int]], jax.Array]

# Rows and columns of the pyramid pooling's grids.
BINS = (1, 2, 3, 6)
DROPOUT = 0.1
# Which features of an encoder are the levels, finest first.
_RESNET_TAPS = (4, 8, 16, 32)
TAPS = {
    "resnet18": _RESNET_TAPS,
    "resnet50": _RESNET_TAPS,
    "resnet101": _RESNET_TAPS,
    "df1": ("x3", "x4", "x5"),
    "df2": ("x3", "x4", "x5"),
    "shufflenet": (8, 16, 32),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the paper's tables, or one of its ablations.

    Attributes:
      encoder: a key of `TAPS`.
      features: channels of the decoder.
      dilated: ResNet: dilation 2 and 4 in the last two stages, strides kept. The
        paper discards dilation; the released networks have it.
      ceil_mode: ResNet and ShuffleNet: of the stem's max pooling. Only with it do the
        printed FLOPs come out; the released code rounds down.
      fam_levels: levels whose top-down step is a FAM, the others enlarge bilinearly.
        2, 1, 0 are F5, F4, F3 of Table 1b; () is the FPN. None is every level.
      context: on the encoder's last feature: "ppm", or "none", a 1x1 convolution.
      flow_upsampling: of the coarse map where the flow is made (Table 2a):
        "bilinear", "nearest" or "deconvolution".
      flow_kernel: size of the convolution that makes the flow (Table 2b).
      deep_supervision: a head more on each level of the decoder, for training only.
      resize_align_corners: of every bilinear resize but the warp.
      warp_align_corners: of the warp; its undisplaced grid stays the same.
    """

    encoder: str
    features: int
    dilated: bool = False
    ceil_mode: bool = False
    fam_levels: tuple[int, ...] | None = None
    context: str = "ppm"
    flow_upsampling: str = "bilinear"
    flow_kernel: int = 3
    deep_supervision: bool = True
    resize_align_corners: bool = True
    warp_align_corners: bool = True


VARIANTS = {
    "sfnet_resnet18": Variant("resnet18", 128, ceil_mode=True),
    "sfnet_resnet50": Variant("resnet50", 256, ceil_mode=True),
    "sfnet_resnet101": Variant("resnet101", 256, ceil_mode=True),
    "sfnet_df1": Variant("df1", 128),
    "sfnet_df2": Variant("df2", 128),
    # No code exists. Of the ShuffleNetV2 widths, decoder widths and levels that were
    # tried, these alone give both printed figures (18.1, and 17.8 without FAM).
    "sfnet_shufflenet": Variant("shufflenet", 128, ceil_mode=True),
    "sfnet_resnet18_official": Variant("resnet18", 128, dilated=True),
    "sfnet_resnet50_official": Variant("resnet50", 256, dilated=True),
    "sfnet_resnet101_official": Variant("resnet101", 256, dilated=True),
    "sfnet_df1_official": Variant("df1", 64),
    "sfnet_df2_official": Variant("df2", 64),
}

_SIZE = (1024, 1024)
_HEADS = "Parameters are without deep supervision (deep_supervision=False)."
_DF_PARAMETERS = (
    "The printed parameters fit neither the paper's decoder width nor the released "
    "one; DF2's encoder alone has 17.5 M."
)
_MIOU = "The paper's tables print 78.3 and 78.7 for the same network."
_README = "The authors' README (SFSegNets)"
INFO = {
    "sfnet_resnet18": Info(
        "SFNet Tables 1c, 3, 6",
        _SIZE,
        params_m=12.87,
        flops_g=123.5,
        miou=78.3,
        miou_test=78.9,
        miou_camvid=73.8,
        note=f"{_HEADS} {_MIOU}",
    ),
    "sfnet_resnet50": Info(
        "SFNet Table 1d", _SIZE, flops_g=337.1, miou=79.2, note=_HEADS
    ),
    "sfnet_resnet101": Info(
        "SFNet Tables 1d, 4",
        _SIZE,
        params_m=50.32,
        flops_g=417.5,
        miou=79.8,
        miou_test=81.8,
        note=f"{_HEADS} The test figure is with several scales and flips.",
    ),
    "sfnet_df1": Info(
        "SFNet Tables 1d, 3",
        _SIZE,
        params_m=9.03,
        flops_g=18.7,
        miou=74.3,
        miou_test=74.5,
        note=f"{_HEADS} {_DF_PARAMETERS}",
    ),
    "sfnet_df2": Info(
        "SFNet Tables 1d, 3, 6",
        _SIZE,
        params_m=10.53,
        flops_g=48.5,
        miou=75.8,
        miou_test=77.8,
        miou_camvid=70.4,
        note=f"{_HEADS} {_DF_PARAMETERS}",
    ),
    "sfnet_shufflenet": Info(
        "SFNet Table 1d",
        _SIZE,
        flops_g=18.1,
        miou=72.1,
        note="The network is inferred from its FLOPs; no code or text describes it.",
    ),
    "sfnet_resnet18_official": Info(_README, _SIZE, miou=79.0, note=_HEADS),
    "sfnet_resnet50_official": Info(_README, _SIZE, miou=80.4, note=_HEADS),
    "sfnet_resnet101_official": Info(_README, _SIZE, miou=81.2, note=_HEADS),
    "sfnet_df1_official": Info(_README, _SIZE, miou=72.2, note=_HEADS),
    "sfnet_df2_official": Info(_README, _SIZE, miou=75.8, note=_HEADS),
}

_CHOICES = {
    "encoder": tuple(TAPS),
    "context": ("ppm", "none"),
    "flow_upsampling": ("bilinear", "nearest", "deconvolution"),
}


def create(variant: Variant, num_classes: int, **style) -> SFNet:
    """Builds the network of a variant; `style` has fields of `layers.Style`."""
    check_choices("SFNet", variant, _CHOICES)
    steps = len(TAPS[variant.encoder]) - 1
    if not set(variant.fam_levels or ()) <= set(range(steps)):
        raise ValueError(
            f"SFNet with {variant.encoder} has no fam_levels {variant.fam_levels}; "
            f"choose from {', '.join(map(str, range(steps)))}."
        )
    style = dataclasses.replace(PYTORCH, **style)
    # torch.nn.Conv2d's own initialisation, which the authors' decoder keeps:
    # uniform(-b, b) with b = 1 / sqrt(fan_in).
    head = dataclasses.replace(
        style,
        kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    )
    return SFNet(num_classes, _encoder(variant, style), variant, head)


def create_classifier(variant: Variant, num_classes: int, **style) -> Classifier:
    """The variant's encoder under a classifier."""
    style = dataclasses.replace(PYTORCH, **style)
    return Classifier(num_classes, _encoder(variant, style), "encoder", style)


def _encoder(variant: Variant, style: Style) -> nn.Module:
    if variant.encoder in resnet.DEPTHS:
        return resnet.ResNet(
            resnet.DEPTHS[variant.encoder],
            style,
            deep_stem=True,
            dilated=variant.dilated,
            ceil_mode=variant.ceil_mode,
        )
    if variant.dilated:
        raise ValueError(
            f"SFNet's encoder {variant.encoder} cannot be dilated; "
            "set dilated=False or choose a ResNet."
        )
    if variant.encoder == "shufflenet":
        return shufflenet.ShuffleNetV2(style, variant.ceil_mode)
    if variant.ceil_mode:
        raise ValueError(
            f"SFNet's encoder {variant.encoder} has no max pooling; "
            "set ceil_mode=False."
        )
    return dfnet.DFNet(dfnet.STAGES[variant.encoder], style)


class SFNet(nn.Module):
    """Images [n, h, w, 3] -> {"logits": [n, h / s, w / s, classes] float32, "aux"}.

    s is the stride of the encoder's finest level: 4 with a ResNet, 8 with DF2 and
    ShuffleNet, 16 with DF1. "aux" is {"level_0": logits of that level, …} when
    training with deep supervision, {} otherwise. Any h and w work.

    With `mutable=["intermediates"]` the collection holds, of each level i, stage{i}
    (the encoder's), lateral{i}, flow{i} [n, h, w, 2] float32, warp{i} (what is added
    to the lateral) and fpn_out{i}; and context and logits_low. flow is (x, y) in units
    that the warp divides by the map's (width, height): a point of the map reads
    flow / 2 of its pixels away.
    """

    num_classes: int
    encoder: nn.Module
    variant: Variant
    style: Style

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict:
        variant, style, width = self.variant, self.style, self.variant.features
        resize = _resize(variant)

        def note(name: str, x: jax.Array) -> jax.Array:
            self.sow("intermediates", name, x)
            return x

        taps = self.encoder(images, train)
        stages = [taps[tap] for tap in TAPS[variant.encoder]]
        for level, x in enumerate(stages):
            note(f"stage{level}", x)
        if variant.context == "ppm":
            x = block(PPM, style)(width, style, resize, name="ppm")(stages[-1], train)
        else:
            x = ConvBN(width, style, activation=nn.relu, name="projection")(
                stages[-1], train
            )
        outputs, aux = [note("context", x)], {}
        for level in reversed(range(len(stages) - 1)):
            lateral = ConvBN(
                width,
                style,
                activation=nn.relu,
                use_bias=True,
                name=f"lateral_{level}",
            )(stages[level], train)
            note(f"lateral{level}", lateral)
            if variant.fam_levels is None or level in variant.fam_levels:
                warped, flow = FAM(variant, style, resize, name=f"fam_{level}")(
                    lateral, x
                )
                note(f"flow{level}", flow)
            else:
                warped = resize(x, lateral.shape[1:3])
            # The sum goes down as it is; its 3x3 convolution only to the last fusion.
            x = lateral + note(f"warp{level}", warped)
            smooth = block(ConvBN, style)(
                width, style, 3, activation=nn.relu, name=f"fpn_out_{level}"
            )(x, train)
            outputs.append(note(f"fpn_out{level}", smooth))
            if variant.deep_supervision and (train or self.is_initializing()):
                # Initialising without training makes the parameters too; a corner of
                # the map is enough for that.
                aux[f"level_{level}"] = block(SupervisionHead, style)(
                    self.num_classes, width, style, name=f"dsn_{level}"
                )(x if train else x[:, :1, :1], train)
        # Enlarged, not warped: "for fast speed, we adopt FAMs only in the adjacent
        # feature pyramids" (§4.1).
        finest, *coarser = reversed(outputs)
        size = finest.shape[1:3]
        x = jnp.concatenate([finest, *(resize(y, size) for y in coarser)], axis=-1)
        x = block(ConvBN, style)(width, style, 3, activation=nn.relu, name="conv_last")(
            x, train
        )
        logits = note("logits_low", classifier(self.num_classes, style)(x))
        return {"logits": logits, "aux": aux if train else {}}

    def enlarge(self, logits: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Logits at another (h, w), with the alignment of the network's own resizes."""
        return _resize(self.variant)(logits, size)

    def views(self, intermediates: dict) -> dict[str, dict[str, jax.Array]]:
        """What its flows do, for `report.flow.sheet`.

        From the collection of an `apply` with `mutable=["intermediates"]`:
        {"FAM of level i": {"before" [n, h, w], the mean over channels of the map that
        is warped, "flow" [n, H, W, 2], "after" [n, H, W]}}; {} without FAM.
        """
        noted = {name: values[0] for name, values in intermediates.items()}
        views, coarse = {}, noted["context"]
        for level in reversed(range(len(TAPS[self.variant.encoder]) - 1)):
            after = noted[f"warp{level}"]
            if f"flow{level}" in noted:
                views[f"FAM of level {level}"] = {
                    "before": jnp.mean(coarse, axis=-1),
                    "flow": noted[f"flow{level}"],
                    "after": jnp.mean(after, axis=-1),
                }
            coarse = noted[f"lateral{level}"] + after
        return views

    def extra_flops(self, module: nn.Module, inputs: tuple, output: jax.Array) -> float:
        """FLOPs that the paper counts beside multiply-adds, for one module's call.

        The counter of the authors' code: biases, two for each normalised number, one
        for each rectified one and for each that is pooled.
        """
        match module:
            case BatchNorm():
                return 2 * output.size
            case Conv(use_bias=True) | ConvBN(activation=nn.relu):
                return output.size
            case resnet.BasicBlock() | resnet.Bottleneck():
                return output.size
            case MaxPool():
                return inputs[0].size
            case PPM():
                return len(BINS) * inputs[0].size
            case _:
                return 0.0


class PPM(nn.Module):
    """Pyramid pooling: averages over four grids beside the feature [n, h, w, c].

    The branches are not rectified, and the convolution that joins them is 1x1, as in
    the authors' code. With one bin the statistics of batch normalisation are those of
    n numbers a channel.
    """

    features: int
    style: Style
    resize: Resize

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        branches = []
        for i, bins in enumerate(BINS):
            y = adaptive_avg_pool(x, bins)
            y = ConvBN(self.features, self.style, name=f"branch_{i}")(y, train)
            branches.append(self.resize(y, x.shape[1:3]))
        x = jnp.concatenate([*branches, x], axis=-1)
        x = ConvBN(self.features, self.style, activation=nn.relu, name="bottleneck")(
            x, train
        )
        return _dropout(x, train)


class FAM(nn.Module):
    """Flow alignment (§3.2): low [n, H, W, d], high [n, h, w, d] -> warped, flow.

    Both maps are reduced to d / 2 channels by the authors' code, which the paper's
    text leaves out; the flow is a convolution over the two, high first. warped
    [n, H, W, d] samples `high` itself at the grid of `low` plus flow / (W, H), which
    is half of the paper's equation 2 in the scale of the learnt flow.
    """

    variant: Variant
    style: Style
    resize: Resize

    @nn.compact
    def __call__(self, low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
        variant, (h, w) = self.variant, low.shape[1:3]
        half = high.shape[-1] // 2
        coarse = Conv(half, self.style, name="down_h")(high)
        fine = Conv(half, self.style, name="down_l")(low)
        if variant.flow_upsampling == "deconvolution":
            # A transposed convolution 2x2 of stride 2, then to the partner's size.
            coarse = Conv(4 * half, self.style, name="deconvolution")(coarse)
            coarse = _depth_to_space(coarse)
        resize = resize_nearest if variant.flow_upsampling == "nearest" else self.resize
        flow = Conv(2, self.style, variant.flow_kernel, name="flow_make")(
            jnp.concatenate([resize(coarse, (h, w)), fine], axis=-1)
        ).astype(jnp.float32)
        size = np.array([w, h], np.float32).reshape(1, 1, 1, 2)
        grid = identity_grid(h, w) + flow / size
        warped = bilinear_warp(high, grid, align_corners=variant.warp_align_corners)
        return warped, flow


class SupervisionHead(nn.Module):
    """A level of the decoder [n, h, w, d] -> logits [n, h, w, classes] float32."""

    num_classes: int
    features: int
    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = ConvBN(
            self.features,
            self.style,
            3,
            activation=nn.relu,
            use_bias=True,
            name="conv",
        )(x, train)
        return classifier(self.num_classes, self.style)(_dropout(x, train))


def _resize(variant: Variant) -> Resize:
    return resize_align_corners if variant.resize_align_corners else resize_bilinear


def identity_grid(height: int, width: int) -> np.ndarray:
    """The grid [1, height, width, 2] float32 of (x, y) that moves nothing.

    From -1 at the first to 1 at the last pixel, whatever align_corners of the warp is.
    """
    x, y = np.meshgrid(_linspace(width), _linspace(height))
    return np.stack([x, y], axis=-1)[None]


def _linspace(count: int) -> np.ndarray:
    """torch.linspace(-1, 1, count): float32, each half counted from its own end."""
    if count == 1:
        return np.full(1, -1, np.float32)
    i = np.arange(count, dtype=np.float32)
    step = np.float32(2) / np.float32(count - 1)
    return np.where(i < count // 2, -1 + step * i, 1 - step * (count - 1 - i))


def _depth_to_space(x: jax.Array) -> jax.Array:
    """[n, h, w, 4c] -> [n, 2h, 2w, c]."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, 2, 2, c // 4)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)


def _dropout(x: jax.Array, train: bool) -> jax.Array:
    """Drops whole channels of an image, by the random stream "dropout"."""
    return nn.Dropout(DROPOUT, broadcast_dims=(1, 2), deterministic=not train)(x)
