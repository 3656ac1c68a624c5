"""SFNet with DF2.

    python -m eseg_jax.main --config=configs/sfnet_df2.py --workdir=DIR

The recipe of configs/sfnet_resnet18.py. The paper reports 75.8 % mIoU on the Cityscapes
validation set (Table 1d) and 77.8 on test (Table 3), after training on both. Not
reproduced here yet.
"""

from configs import sfnet_resnet18


def get_config(dataset: str = "cityscapes"):
    return sfnet_resnet18.recipe("sfnet_df2", dataset)
