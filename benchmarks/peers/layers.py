"""What the peers share."""

import torch
import torch.nn.functional as F
from torch import nn


class Conv(nn.Conv2d):
    """A convolution with padding k // 2 on both sides or, `same`, TensorFlow's."""

    def __init__(
        self, inputs, outputs, k=1, stride=1, *, groups=1, bias=False, same=False
    ):
        self.same = same and stride > 1
        super().__init__(
            inputs,
            outputs,
            k,
            stride,
            padding=0 if self.same else k // 2,
            groups=groups,
            bias=bias,
        )

    def forward(self, x):
        if self.same:
            (h, w), k, s = x.shape[-2:], self.kernel_size[0], self.stride[0]
            down, across = (
                max((-size % s or s) and k - (size % s or s), 0) for size in (h, w)
            )
            x = F.pad(
                x, (across // 2, across - across // 2, down // 2, down - down // 2)
            )
        return super().forward(x)


class ConvBN(nn.Module):
    """Convolution, batch normalisation, activation; `fold` makes it one convolution."""

    def __init__(
        self,
        inputs,
        outputs,
        k=1,
        stride=1,
        activation=None,
        *,
        groups=1,
        bias=False,
        tensorflow=False,
    ):
        super().__init__()
        self.conv = Conv(
            inputs, outputs, k, stride, groups=groups, bias=bias, same=tensorflow
        )
        epsilon, momentum = (1e-3, 0.01) if tensorflow else (1e-5, 0.1)
        self.bn = nn.BatchNorm2d(outputs, epsilon, momentum)
        self.activation = activation

    def forward(self, x):
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return x if self.activation is None else self.activation(x)


def fold(model):
    """Folds batch normalisation into the convolutions, in place, for inference."""
    for module in model.eval().modules():
        if isinstance(module, ConvBN):
            module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = None
    return model


def relu(x):
    return F.relu(x, inplace=True)


def silu(x):
    return F.silu(x, inplace=True)


def resize(x, like, align_corners=False):
    """Bilinear, to the size of `like`."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(
        x, like.shape[-2:], mode="bilinear", align_corners=align_corners
    )


def same_pool(pool, x, **options):
    """3x3 pooling of stride 2 with TensorFlow's padding: an odd pixel at the end."""
    odd = (x.shape[-2] % 2, x.shape[-1] % 2)
    return pool(x, 3, 2, padding=odd, ceil_mode=True, **options)


class DropConnect(nn.Module):
    """Drops a branch for whole images."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * (
            torch.empty(len(x), 1, 1, 1, device=x.device, dtype=x.dtype).bernoulli_(
                keep
            )
            / keep
        )
