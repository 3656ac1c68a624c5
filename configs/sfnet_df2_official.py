"""SFNet with DF2 as its authors released it (SFSegNets).

    python -m eseg_jax.main --config=configs/sfnet_df2_official.py --workdir=DIR

The recipe of configs/sfnet_resnet18_official.py. The authors report 75.8 % mIoU on the
Cityscapes validation set. Not reproduced here yet.
"""

from configs import sfnet_resnet18_official


def get_config(dataset: str = "cityscapes"):
    return sfnet_resnet18_official.recipe("sfnet_df2_official", dataset)
