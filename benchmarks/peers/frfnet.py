"""FRFNet and FRFNet-slim."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from peers.layers import Conv, ConvBN, relu, resize

STAGES = ((64, 112), (80, 256), (96, 384), (112, 512))
FREQUENCIES = (
    (0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0),
    (5, 0), (1, 6), (3, 0), (0, 4), (0, 6), (0, 3), (3, 5), (2, 2),
)  # fmt: skip
conv_relu = functools.partial(ConvBN, activation=relu)


class Stem(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = conv_relu(3, c, 3, 2)
        self.reduce = conv_relu(c, c // 2)
        self.down = conv_relu(c // 2, c, 3, 2)
        self.fuse = conv_relu(2 * c, c, 3)

    def forward(self, x):
        x = self.conv(x)
        y = self.down(self.reduce(x))
        return self.fuse(torch.cat([y, F.max_pool2d(x, 3, 2, 1)], 1))


class Transition(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.reduce = conv_relu(c, c // 2)
        self.down = conv_relu(c // 2, c // 2, 3, 2)

    def forward(self, x):
        x = self.reduce(x)
        return torch.cat([F.max_pool2d(x, 3, 2, 1), self.down(x)], 1)


class ECA(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x):
        mean = x.mean((2, 3)).unsqueeze(1)
        gate = F.conv1d(mean, self.kernel.permute(2, 1, 0), padding=1)
        return x * gate.transpose(1, 2).unsqueeze(-1).sigmoid()


class DAM(nn.Module):
    def __init__(self, inputs, s, outputs, depthwise):
        super().__init__()
        groups = s if depthwise else 1
        self.conv = conv_relu(inputs, s, 3)
        self.cheap_1 = Conv(s, s, bias=True)
        self.cheap_2 = Conv(s, s, bias=True)
        self.reuse_1 = conv_relu(s, s, 3, groups=groups)
        self.reuse_2 = conv_relu(s, s, 3, groups=groups)
        self.aggregate = conv_relu(inputs + 3 * s, outputs)
        self.eca = ECA()

    def forward(self, x):
        x0 = self.conv(x)
        g1 = self.cheap_1(x0)
        g2 = self.cheap_2(g1)
        r1, r2 = self.reuse_1(x0 + g1), self.reuse_2(g1 + g2)
        return self.eca(self.aggregate(torch.cat([x, x0, r1, r2], 1)))


class Backbone(nn.Module):
    def __init__(self, stem, depthwise):
        super().__init__()
        self.stem = Stem(stem)
        inputs = stem
        for i, (inner, outputs) in enumerate(STAGES):
            if i > 0:
                self.add_module(f"transition_{i}", Transition(inputs))
            self.add_module(f"dam_{i + 1}", DAM(inputs, inner, outputs, depthwise))
            inputs = outputs

    def forward(self, x):
        x, features = self.dam_1(self.stem(x)), []
        features.append(x)
        for i in (1, 2, 3):
            x = getattr(self, f"dam_{i + 1}")(getattr(self, f"transition_{i}")(x))
            features.append(x)
        return features


def dct_basis(channels):
    u, i = torch.arange(7.0).view(7, 1), torch.arange(7.0).view(1, 7)
    b = torch.cos(math.pi * u * (i + 0.5) / 7) / math.sqrt(7)
    b[1:] *= math.sqrt(2)
    maps = torch.stack([torch.outer(b[u], b[v]) for u, v in FREQUENCIES])
    return maps.repeat_interleave(channels // len(FREQUENCIES), 0).unsqueeze(0)


class MSC(nn.Module):
    def __init__(self, c):
        super().__init__()
        part = c // 4
        self.part_1 = Conv(c, part, groups=16, bias=True)
        self.part_2 = Conv(part, part, bias=True)
        self.part_3 = Conv(part, part, bias=True)
        self.squeeze = Conv(3 * part, c // 16)
        self.excite = Conv(c // 16, c)
        self.register_buffer("basis", dct_basis(part), persistent=False)

    def forward(self, x):
        a = self.part_1(x)
        b = self.part_2(a)
        product, products = 0, []
        for y in (a, b, self.part_3(b)):
            product = self.basis * (F.adaptive_avg_pool2d(y, 7) + product)
            products.append(product)
        spectrum = torch.cat(products, 1).sum((2, 3), keepdim=True)
        return x * self.excite(relu(self.squeeze(spectrum.to(x.dtype)))).sigmoid()


class Head(nn.Module):
    def __init__(self, inputs, num_classes):
        super().__init__()
        self.conv = conv_relu(inputs, 64, 3)
        self.classifier = Conv(64, num_classes, bias=True)

    def forward(self, x):
        return self.classifier(self.conv(x))


def gated_sum(context, detail, threshold=0.4):
    p, q = context.sigmoid(), detail.sigmoid()
    t1 = torch.where(p - q > threshold, p, 0)
    t2 = torch.where(q - p > threshold, q, 0)
    return context * (1 + t1) + detail * (1 + t2)


class FRFNet(nn.Module):
    align_corners = False  # of the enlargement of its logits

    def __init__(self, num_classes, stem=32, depthwise=False):
        super().__init__()
        self.backbone = Backbone(stem, depthwise)
        c1, c2, c3, c4 = (outputs for _, outputs in STAGES)
        self.context = conv_relu(c4, 128, 3)
        self.attention_5 = MSC(128)
        self.refine_4 = conv_relu(128, 128, 3)
        self.lateral_4 = conv_relu(c3, 128)
        self.attention_4 = MSC(128)
        self.refine_3 = conv_relu(128, 128, 3)
        self.lateral_3 = conv_relu(c2, 128)
        self.ffm_3x3 = conv_relu(128, c1, 3)
        self.ffm_1x1 = conv_relu(c1, c1)
        self.head = Head(c1, num_classes)
        self.aux_p4 = Head(128, num_classes)
        self.aux_p3 = Head(128, num_classes)

    def forward(self, images):
        f1, f2, f3, f4 = self.backbone(images)
        p4 = resize(self.attention_5(self.context(f4)), f3)
        c4 = self.attention_4(self.lateral_4(f3)) + self.refine_4(p4)
        p3 = resize(c4, f2)
        x = gated_sum(self.refine_3(p3), self.lateral_3(f2))
        x = resize(self.ffm_1x1(self.ffm_3x3(x)), f1) + f1.sigmoid() * f1
        logits = self.head(x)
        if not self.training:
            return {"logits": logits, "aux": {}}
        return {"logits": logits, "aux": {"p4": self.aux_p4(p4), "p3": self.aux_p3(p3)}}


VARIANTS = {
    "frfnet": FRFNet,
    "frfnet_slim": functools.partial(FRFNet, stem=16, depthwise=True),
}
