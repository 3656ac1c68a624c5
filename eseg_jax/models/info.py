"""What a paper prints about a network, and how its images are normalised."""

from __future__ import annotations

import dataclasses

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclasses.dataclass(frozen=True)
class Info:
    """Facts beside a variant; None where the paper prints nothing.

    Attributes:
      source: the paper's table or section.
      size: (height, width) that the printed FLOPs are for.
      params_m: printed parameters, in millions.
      with_heads: whether they include heads that only training uses.
      size_mb: printed "Params" that can only be megabytes of float32.
      flops_g: printed FLOPs, in 1e9.
      miou: printed mIoU on the Cityscapes validation set, in percent.
      miou_test: on the Cityscapes test set.
      miou_camvid: on the CamVid test set.
      note: what a reader must know before comparing with these figures.
      mean, std: of the uint8 RGB input, subtracted and divided on the device.
    """

    source: str
    size: tuple[int, int] = (1024, 2048)
    params_m: float | None = None
    with_heads: bool = False
    size_mb: float | None = None
    flops_g: float | None = None
    miou: float | None = None
    miou_test: float | None = None
    miou_camvid: float | None = None
    note: str = ""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
