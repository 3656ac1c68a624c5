"""ESeg-S: EfficientNet-B1 encoder, BiFPN of 96 channels and 4 repeats (ESeg §3.2).

    python -m eseg_jax.main --config=configs/eseg_s.py --workdir=DIR

The recipe of §4.2: 90,000 steps of 16 crops of 512x1024 (484 epochs of Cityscapes'
2,975 training images) on 8 TPU cores. The paper reports 80.1 % mIoU on the Cityscapes
validation set (Table 4; from ImageNet weights). Not reproduced here yet. `:camvid` and
`:scenes` behind the file name train on other data, see configs/base.py.
"""

from configs import base


def get_config(dataset: str = "cityscapes"):
    config = base.get_config(dataset)
    config.model.name = "eseg_s"
    return config
