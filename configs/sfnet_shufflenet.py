"""SFNet with ShuffleNetV2.

    python -m eseg_jax.main --config=configs/sfnet_shufflenet.py --workdir=DIR

The recipe of configs/sfnet_resnet18.py. The paper reports 72.1 % mIoU on the Cityscapes
validation set (Table 1d), of a network that neither text nor code describes: ours is
the one that has its FLOPs. Not reproduced here yet.
"""

from configs import sfnet_resnet18


def get_config(dataset: str = "cityscapes"):
    return sfnet_resnet18.recipe("sfnet_shufflenet", dataset)
