"""DFANet A and B."""

import functools

import torch
from torch import nn

from peers.layers import Conv, ConvBN, relu, resize


class SeparableConv(nn.Module):
    def __init__(self, inputs, outputs, stride=1, activation=None):
        super().__init__()
        self.depthwise = ConvBN(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = ConvBN(inputs, outputs, activation=activation)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        inner = outputs // 4
        self.conv1 = SeparableConv(inputs, inner, stride, relu)
        self.conv2 = SeparableConv(inner, inner, activation=relu)
        self.conv3 = SeparableConv(inner, outputs)
        self.shortcut = ConvBN(inputs, outputs, 1, stride) if stride != 1 else None

    def forward(self, x):
        y = self.conv3(self.conv2(self.conv1(x)))
        return relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Stage(nn.Module):
    def __init__(self, inputs, outputs, repeats):
        super().__init__()
        self.repeats = repeats
        for i in range(repeats):
            self.add_module(
                f"blocks_{i}",
                Block(outputs if i else inputs, outputs, 1 if i else 2),
            )

    def forward(self, x):
        for i in range(self.repeats):
            x = getattr(self, f"blocks_{i}")(x)
        return x


class Xception(nn.Module):
    """The outputs of enc2, enc3 and enc4; later ones read those of the one before."""

    def __init__(self, widths, inputs=None):
        super().__init__()
        c2, c3, c4 = widths
        self.conv1 = ConvBN(3, 8, 3, 2, relu) if inputs is None else None
        later = inputs is not None
        self.enc2 = Stage(inputs or 8, c2, 4)
        self.enc3 = Stage(c2 + later * c3, c3, 6)
        self.enc4 = Stage(c3 + later * c4, c4, 4)

    def forward(self, x, skip3=None, skip4=None):
        if self.conv1 is not None:
            x = self.conv1(x)
        enc2 = self.enc2(x)
        enc3 = self.enc3(enc2 if skip3 is None else torch.cat([enc2, skip3], 1))
        enc4 = self.enc4(enc3 if skip4 is None else torch.cat([enc3, skip4], 1))
        return enc2, enc3, enc4


class FCAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc = Conv(channels, 1000, bias=True)
        self.reduce = Conv(1000, channels, bias=True)

    def forward(self, x):
        gate = self.reduce(self.fc(x.mean((2, 3), keepdim=True)))
        return x * gate.sigmoid_()


class Sum(nn.Module):
    def __init__(self, channels, count, smooth):
        super().__init__()
        for n in range(1, count + 1):
            self.add_module(f"reduce_{n}", ConvBN(channels, 32, activation=relu))
        self.smooth = ConvBN(32, 32, 3, 1, relu) if smooth else None

    def forward(self, maps):
        total = self.reduce_1(maps[0])
        for n, x in enumerate(maps[1:], 2):
            total = total + resize(getattr(self, f"reduce_{n}")(x), total)
        return total if self.smooth is None else self.smooth(total)


class DFANet(nn.Module):
    align_corners = False  # of the enlargement of its logits

    def __init__(self, num_classes, widths, sub_networks=3):
        super().__init__()
        self.sub_networks = sub_networks
        for n in range(1, sub_networks + 1):
            inputs = None if n == 1 else widths[0] + widths[2]
            self.add_module(f"backbone_{n}", Xception(widths, inputs))
            self.add_module(f"attention_{n}", FCAttention(widths[2]))
        self.hl = Sum(widths[2], sub_networks, smooth=False)
        self.ll = Sum(widths[0], sub_networks, smooth=True)
        self.classifier = Conv(32, num_classes, bias=True)

    def forward(self, images):
        x, enc3, enc4, shallow, deep = images, None, None, [], []
        for n in range(1, self.sub_networks + 1):
            enc2, enc3, enc4 = getattr(self, f"backbone_{n}")(x, enc3, enc4)
            attended = getattr(self, f"attention_{n}")(enc4)
            shallow.append(enc2)
            deep.append(attended)
            if n < self.sub_networks:
                x = torch.cat([enc2, resize(attended, enc2)], 1)
        low = self.ll(shallow)
        x = low + resize(self.hl(deep), low)
        return {"logits": self.classifier(x), "aux": {}}


VARIANTS = {
    "dfanet_a": functools.partial(DFANet, widths=(48, 96, 192)),
    "dfanet_b": functools.partial(DFANet, widths=(32, 64, 128)),
}
