"""ESeg-Lite-S and M and ESeg-S."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from peers.layers import (
    Conv,
    ConvBN,
    DropConnect,
    relu,
    resize,
    same_pool,
    silu,
)

# Repeats, kernel size, stride, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
convbn = functools.partial(ConvBN, tensorflow=True)


def scaled(channels, width):
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


class SqueezeExcite(nn.Module):
    def __init__(self, channels, reduced):
        super().__init__()
        self.reduce = Conv(channels, reduced, bias=True)
        self.expand = Conv(reduced, channels, bias=True)

    def forward(self, x):
        gate = F.silu(self.reduce(x.mean((2, 3), keepdim=True)), inplace=True)
        return x * self.expand(gate).sigmoid_()


class MBConv(nn.Module):
    def __init__(self, inputs, outputs, k, stride, expand, drop_rate):
        super().__init__()
        inner = inputs * expand
        if expand != 1:
            self.expand = convbn(inputs, inner, activation=silu)
        self.depthwise = convbn(inner, inner, k, stride, silu, groups=inner)
        self.se = SqueezeExcite(inner, max(1, inputs // 4))
        self.project = convbn(inner, outputs)
        self.residual = stride == 1 and inputs == outputs
        self.drop = DropConnect(drop_rate)

    def forward(self, x):
        y = self.expand(x) if hasattr(self, "expand") else x
        y = self.project(self.se(self.depthwise(y)))
        return x + self.drop(y) if self.residual else y


class FusedMBConv(nn.Module):
    def __init__(self, inputs, outputs, k, stride, expand, drop_rate):
        super().__init__()
        inner = outputs if expand == 1 else inputs * expand
        self.fused = convbn(inputs, inner, k, stride, relu)
        self.project = nn.Identity() if expand == 1 else convbn(inner, outputs)
        self.residual = stride == 1 and inputs == outputs
        self.drop = DropConnect(drop_rate)

    def forward(self, x):
        y = self.project(self.fused(x))
        return x + self.drop(y) if self.residual else y


class Encoder(nn.Module):
    """The outputs before each stride-2 block, finest first."""

    def __init__(self, width, depth, fused):
        super().__init__()
        block = FusedMBConv if fused else MBConv
        channels = scaled(32, width)
        self.stem = convbn(3, channels, 3, 2, relu if fused else silu)
        total = sum(math.ceil(depth * stage[0]) for stage in STAGES)
        self.taps, self.channels, index = [], [], 0
        for repeats, k, stride, expand, outputs in STAGES:
            if stride == 2:
                self.taps.append(index - 1)
                self.channels.append(channels)
            for i in range(math.ceil(depth * repeats)):
                outer = scaled(outputs, width)
                self.add_module(
                    f"blocks_{index}",
                    block(
                        channels,
                        outer,
                        k,
                        stride if i == 0 else 1,
                        expand,
                        0.2 * index / total,
                    ),
                )
                channels, index = outer, index + 1
        self.taps.append(index - 1)
        self.channels.append(channels)

    def forward(self, x):
        x, features = self.stem(x), []
        for i in range(self.taps[-1] + 1):
            x = getattr(self, f"blocks_{i}")(x)
            if i in self.taps:
                features.append(x)
        return features


class SeparableConvBN(nn.Module):
    def __init__(self, channels, activation):
        super().__init__()
        self.depthwise = Conv(channels, channels, 3, groups=channels)
        self.pointwise = convbn(channels, channels, activation=activation)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


class Fusion(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(count))

    def forward(self, *features):
        w = F.relu(self.weights)
        w = (w / (w.sum() + 1e-4)).to(features[0].dtype)
        total = features[0] * w[0]
        for i, x in enumerate(features[1:], 1):
            total = torch.addcmul(total, x, w[i])
        return total


class BiFPNCell(nn.Module):
    def __init__(self, levels, channels, activation):
        super().__init__()
        self.levels = levels
        nodes = [(f"down_p{level}", 2) for level in levels[:-1]]
        nodes += [(f"up_p{level}", 3) for level in levels[1:-1]]
        for name, count in [*nodes, (f"up_p{levels[-1]}", 2)]:
            self.add_module(f"{name}_fusion", Fusion(count))
            self.add_module(name, SeparableConvBN(channels, activation))

    def node(self, name, *features):
        return getattr(self, name)(getattr(self, f"{name}_fusion")(*features))

    def forward(self, inputs):
        *finer, last = self.levels
        down = {last: inputs[last]}
        for level in reversed(finer):
            x = inputs[level]
            above = F.interpolate(down[level + 1], x.shape[-2:], mode="nearest-exact")
            down[level] = self.node(f"down_p{level}", x, above)
        outputs = {finer[0]: down[finer[0]]}
        for level in self.levels[1:]:
            below = same_pool(F.max_pool2d, outputs[level - 1])
            seen = [inputs[level]] + ([down[level]] if level != last else [])
            outputs[level] = self.node(f"up_p{level}", *seen, below)
        return outputs


class LevelSum(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(count))

    def forward(self, levels):
        finest, *coarser = (levels[level] for level in sorted(levels))
        w = self.weights.softmax(0).to(finest.dtype)
        total = finest * w[0]
        for i, x in enumerate(coarser, 1):
            total = torch.add(total, resize(x * w[i], total))
        return total


class ESeg(nn.Module):
    align_corners = False  # of the enlargement of its logits

    def __init__(self, num_classes, width, depth, fused, base_level, features, repeats):
        super().__init__()
        activation = relu if fused else silu
        self.encoder = Encoder(width, depth, fused)
        self.levels = list(range(base_level, 10))
        widths = self.encoder.channels[base_level - 1 :]
        for i, level in enumerate(self.levels):
            self.add_module(
                f"lateral_p{level}", convbn(widths[min(i, len(widths) - 1)], features)
            )
        self.repeats = repeats
        for i in range(repeats):
            self.add_module(f"bifpn_{i}", BiFPNCell(self.levels, features, activation))
        self.level_sum = LevelSum(len(self.levels))
        self.head = SeparableConvBN(features, activation)
        self.classifier = Conv(features, num_classes, bias=True)

    def forward(self, images):
        levels = dict(enumerate(self.encoder(images), 1))
        for level in range(6, 10):
            levels[level] = same_pool(
                F.avg_pool2d, levels[level - 1], count_include_pad=False
            )
        levels = {i: getattr(self, f"lateral_p{i}")(levels[i]) for i in self.levels}
        for i in range(self.repeats):
            levels = getattr(self, f"bifpn_{i}")(levels)
        return {"logits": self.classifier(self.head(self.level_sum(levels))), "aux": {}}


def _lite(width, depth, features, repeats):
    return functools.partial(
        ESeg,
        width=width,
        depth=depth,
        fused=True,
        base_level=3,
        features=features,
        repeats=repeats,
    )


VARIANTS = {
    "eseg_lite_s": _lite(0.4, 0.6, 64, 1),
    "eseg_lite_m": _lite(0.6, 1.0, 80, 2),
    "eseg_s": functools.partial(
        ESeg, width=1.0, depth=1.1, fused=False, base_level=2, features=96, repeats=4
    ),
}
