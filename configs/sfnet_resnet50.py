"""SFNet with ResNet-50.

    python -m eseg_jax.main --config=configs/sfnet_resnet50.py --workdir=DIR

The recipe of configs/sfnet_resnet18.py. The paper reports 79.2 % mIoU on the Cityscapes
validation set (Table 1d). Not reproduced here yet.
"""

from configs import sfnet_resnet18


def get_config(dataset: str = "cityscapes"):
    return sfnet_resnet18.recipe("sfnet_resnet50", dataset)
