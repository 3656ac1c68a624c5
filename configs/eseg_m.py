"""ESeg-M: EfficientNet-B4 encoder, BiFPN of 192 channels and 5 repeats (ESeg §3.2).

    python -m eseg_jax.main --config=configs/eseg_m.py --workdir=DIR

The recipe of §4.2: 90,000 steps of 16 crops of 512x1024 (484 epochs of Cityscapes'
2,975 training images) on 8 TPU cores. The paper reports 81.6 % mIoU on the Cityscapes
validation set (Table 4; from ImageNet weights). Not reproduced here yet. `:camvid` and
`:scenes` behind the file name train on other data, see configs/base.py.
"""

from configs import base


def get_config(dataset: str = "cityscapes"):
    config = base.get_config(dataset)
    config.model.name = "eseg_m"
    return config
