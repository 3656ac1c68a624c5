"""SFNet with ResNet-18 and with DF1, in the paper's form."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from peers.layers import Conv, ConvBN, relu
from peers.layers import resize as _resize

resize = functools.partial(_resize, align_corners=True)


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = ConvBN(inputs, outputs, 3, stride, relu)
        self.conv2 = ConvBN(outputs, outputs, 3)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = ConvBN(inputs, outputs, 1, stride)

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        return relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    channels = (64, 128, 256, 512)

    def __init__(self):
        super().__init__()
        self.stem1 = ConvBN(3, 64, 3, 2, relu)
        self.stem2 = ConvBN(64, 64, 3, 1, relu)
        self.stem3 = ConvBN(64, 128, 3, 1, relu)
        inputs = 128
        for i, width in enumerate(self.channels, 1):
            self.add_module(f"layer{i}_0", BasicBlock(inputs, width, 1 + (i > 1)))
            self.add_module(f"layer{i}_1", BasicBlock(width, width, 1))
            inputs = width

    def forward(self, x):
        x = self.stem3(self.stem2(self.stem1(x)))
        x, taps = F.max_pool2d(x, 3, 2, 1, ceil_mode=True), []
        for i in (1, 2, 3, 4):
            x = getattr(self, f"layer{i}_1")(getattr(self, f"layer{i}_0")(x))
            taps.append(x)
        return taps


class DF1(nn.Module):
    channels = (128, 256, 512)
    stages = ((2, 3, 64, 2), (3, 3, 128, 2), (4, 3, 256, 2), (5, 1, 512, 1))

    def __init__(self):
        super().__init__()
        self.stem1 = ConvBN(3, 32, 3, 2, relu)
        self.stem2 = ConvBN(32, 64, 3, 2, relu)
        inputs = 64
        for stage, depth, width, stride in self.stages:
            for i in range(depth):
                self.add_module(
                    f"stage{stage}_{i}",
                    BasicBlock(inputs, width, stride if i == 0 else 1),
                )
                inputs = width

    def forward(self, x):
        x, taps = self.stem2(self.stem1(x)), []
        for stage, depth, *_ in self.stages:
            for i in range(depth):
                x = getattr(self, f"stage{stage}_{i}")(x)
            taps.append(x)
        return taps[1:]


class PPM(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        for i in range(4):
            self.add_module(f"branch_{i}", ConvBN(inputs, width))
        self.bottleneck = ConvBN(inputs + 4 * width, width, activation=relu)
        self.drop = nn.Dropout2d(0.1)

    def forward(self, x):
        branches = [
            resize(getattr(self, f"branch_{i}")(F.adaptive_avg_pool2d(x, bins)), x)
            for i, bins in enumerate((1, 2, 3, 6))
        ]
        return self.drop(self.bottleneck(torch.cat([*branches, x], 1)))


class FAM(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.down_h = Conv(width, width // 2)
        self.down_l = Conv(width, width // 2)
        self.flow_make = Conv(width, 2, 3)

    def forward(self, low, high):
        n, _, h, w = low.shape
        coarse = resize(self.down_h(high), low)
        flow = self.flow_make(torch.cat([coarse, self.down_l(low)], 1)).float()
        x = torch.linspace(-1, 1, w, device=low.device).view(1, 1, w)
        y = torch.linspace(-1, 1, h, device=low.device).view(1, h, 1)
        grid = torch.stack([x + flow[:, 0] / w, y + flow[:, 1] / h], -1)
        # In float32, as autocast does it: a bfloat16 grid resolves one or two pixels.
        warped = F.grid_sample(high.float(), grid, align_corners=True)
        return warped.to(high.dtype)


class SupervisionHead(nn.Module):
    def __init__(self, width, num_classes):
        super().__init__()
        self.conv = ConvBN(width, width, 3, activation=relu, bias=True)
        self.drop = nn.Dropout2d(0.1)
        self.classifier = Conv(width, num_classes, bias=True)

    def forward(self, x):
        return self.classifier(self.drop(self.conv(x)))


class SFNet(nn.Module):
    align_corners = True  # of the enlargement of its logits

    def __init__(self, num_classes, encoder, width=128):
        super().__init__()
        self.encoder = encoder()
        *channels, deepest = encoder.channels
        self.ppm = PPM(deepest, width)
        self.steps = range(len(channels))
        for i in self.steps:
            self.add_module(
                f"lateral_{i}", ConvBN(channels[i], width, activation=relu, bias=True)
            )
            self.add_module(f"fam_{i}", FAM(width))
            self.add_module(f"fpn_out_{i}", ConvBN(width, width, 3, 1, relu))
            self.add_module(f"dsn_{i}", SupervisionHead(width, num_classes))
        count = len(encoder.channels)
        self.conv_last = ConvBN(count * width, width, 3, 1, relu)
        self.classifier = Conv(width, num_classes, bias=True)

    def forward(self, images):
        *stages, deepest = self.encoder(images)
        x, aux = self.ppm(deepest), {}
        outputs = [x]
        for i in reversed(self.steps):
            lateral = getattr(self, f"lateral_{i}")(stages[i])
            x = lateral + getattr(self, f"fam_{i}")(lateral, x)
            outputs.append(getattr(self, f"fpn_out_{i}")(x))
            if self.training:
                aux[f"level_{i}"] = getattr(self, f"dsn_{i}")(x)
        finest, *coarser = reversed(outputs)
        x = torch.cat([finest, *(resize(y, finest) for y in coarser)], 1)
        return {"logits": self.classifier(self.conv_last(x)), "aux": aux}


VARIANTS = {
    "sfnet_resnet18": functools.partial(SFNet, encoder=ResNet18),
    "sfnet_df1": functools.partial(SFNet, encoder=DF1),
}
