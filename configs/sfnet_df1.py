"""SFNet with DF1.

    python -m eseg_jax.main --config=configs/sfnet_df1.py --workdir=DIR

The recipe of configs/sfnet_resnet18.py. The paper reports 74.3 % mIoU on the Cityscapes
validation set (Table 1d) and 74.5 on test (Table 3). Not reproduced here yet. The
decoder has 128 channels, with which the printed FLOPs come out; the released network
has 64 (configs/sfnet_df1_official.py).
"""

from configs import sfnet_resnet18


def get_config(dataset: str = "cityscapes"):
    return sfnet_resnet18.recipe("sfnet_df1", dataset)
