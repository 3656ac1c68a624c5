"""SFNet with ResNet-101 as its authors released it (SFSegNets).

    python -m eseg_jax.main --config=configs/sfnet_resnet101_official.py --workdir=DIR

The recipe of configs/sfnet_resnet18_official.py. The authors report 81.2 % mIoU on the
Cityscapes validation set; others found 80.5. Not reproduced here yet.
"""

from configs import sfnet_resnet18_official


def get_config(dataset: str = "cityscapes"):
    return sfnet_resnet18_official.recipe("sfnet_resnet101_official", dataset)
