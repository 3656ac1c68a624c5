"""DFANet A: three Xception-A sub-networks, a decoder of deep and shallow maps (§3).

    python -m eseg_jax.main --config=configs/dfanet_a.py --workdir=DIR

The recipe of §4.1: SGD, poly 0.9 from 0.2, 40,000 steps of 48 crops, cross-entropy,
scales 0.75 to 1.75. The paper reports 71.9 % mIoU on the Cityscapes validation set
(Table 4) and 71.3 on test (Table 5), from ImageNet weights that were never published;
the best public reproduction found has 65.28 on validation. Not reproduced here yet.
Our choices where the paper is silent: a warm-up of one epoch, and testing on whole
images of 1024x2048.
"""

from configs import base


def get_config(dataset: str = "cityscapes"):
    config = base.get_config(dataset)
    config.model.name = "dfanet_a"
    config.model.options = {}
    config.optimizer.update(schedule="poly", weight_decay=1e-5, clip_norm=0.0)
    config.loss.ohem_threshold = 0.0
    if dataset == "cityscapes":
        config.input.update(batch_size=48, crop=(1024, 1024), scale=(0.75, 1.75))
        config.optimizer.update(learning_rate=0.2, warmup_steps=62)
        config.total_steps = 40_000
    return config
