"""ESeg-Lite-S: fused blocks, P3-P9, BiFPN of 64 channels, once (ESeg §3.2, §3.3).

    python -m eseg_jax.main --config=configs/eseg_lite_s.py --workdir=DIR
    python -m eseg_jax.main --config=configs/eseg_lite_s.py:scenes --workdir=DIR

The recipe of §4.2 with the "larger crop size" of §4.3, which we take to be 1024x1024 as
DDRNet's: 90,000 steps of 16 crops. The paper reports 76.0 % mIoU on the Cityscapes
validation set (Table 6). Not reproduced here yet. `:camvid` and `:scenes` behind the
file name train on other data, see configs/base.py; `:camvid` reached 56.0 % on its
validation set (README, "Measured").
"""

from configs import base


def get_config(dataset: str = "cityscapes"):
    config = base.get_config(dataset)
    config.model.name = "eseg_lite_s"
    if dataset == "cityscapes":
        config.input.crop = (1024, 1024)
    return config
