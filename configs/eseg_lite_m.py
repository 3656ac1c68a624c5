"""ESeg-Lite-M: fused blocks, P3-P9, BiFPN of 80 channels, twice (ESeg §3.2, §3.3).

    python -m eseg_jax.main --config=configs/eseg_lite_m.py --workdir=DIR
    python -m eseg_jax.main --config=configs/eseg_lite_m.py:scenes --workdir=DIR

The recipe of §4.2 with the "larger crop size" of §4.3, which we take to be 1024x1024 as
DDRNet's: 90,000 steps of 16 crops. The paper reports 78.6 % mIoU on the Cityscapes
validation set (Table 6). Not reproduced here yet. `:camvid` and `:scenes` behind the
file name train on other data, see configs/base.py.
"""

from configs import base


def get_config(dataset: str = "cityscapes"):
    config = base.get_config(dataset)
    config.model.name = "eseg_lite_m"
    if dataset == "cityscapes":
        config.input.crop = (1024, 1024)
    return config
