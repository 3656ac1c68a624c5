"""SFNet with ResNet-101.

    python -m eseg_jax.main --config=configs/sfnet_resnet101.py --workdir=DIR

The recipe of configs/sfnet_resnet18.py. The paper reports 79.8 % mIoU on the Cityscapes
validation set (Table 1d) and, with seven scales and flips, 81.8 on test (Table 4). Not
reproduced here yet.
"""

from configs import sfnet_resnet18


def get_config(dataset: str = "cityscapes"):
    return sfnet_resnet18.recipe("sfnet_resnet101", dataset)
