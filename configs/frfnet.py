"""FRFNet: a backbone that re-uses dense features, and three fusions (§3).

    python -m eseg_jax.main --config=configs/frfnet.py --workdir=DIR
    python -m eseg_jax.main --config=configs/frfnet.py:camvid --workdir=DIR

The recipe of §4.1: Adam, cosine from 1e-4 to 1e-6, batch 16, from scratch, 1,000 epochs
of Cityscapes, tested at 512x1024, or 800 of CamVid at 480x360. The paper is silent
about loss and weight decay: ours are those of the author's neighbouring code.

It reports 69.5 % mIoU on the Cityscapes test set (Table 1) and 68.2 on CamVid's (Table
4), after training on train and val together; this trains on train alone unless told
--config.dataset.train_split=trainval. The paper contradicts itself: its text gives 76.4
for Cityscapes, which is the Danet variant's (Table 2, --config.model.name=frfnet_danet,
with FLOPs that leave out the attention's products), and CamVid's figure is 68.0 in
Table 3. No reproduction by others was found. Not reproduced here yet: two hours of a
CPU core reach 64.2 % on CamVid's validation set and 52.2 on test (benchmarks/camvid.md,
which has that run's recipe; it is not this one).
"""

from configs import base

# 1 / ln(1.02 + p) with p the class's share of the pixels of CamVid's 701 annotations.
_CAMVID = (6.1, 4.31, 33.83, 3.67, 11.99, 8.07, 32.76, 29.91, 15.65, 38.96, 40.5)


def get_config(dataset: str = "cityscapes"):
    config = base.get_config(dataset)
    config.model.name = "frfnet"
    config.model.options = {}
    config.optimizer.update(
        name="adam",
        learning_rate=1e-4,
        final_learning_rate=1e-6,
        warmup_steps=0,
        weight_decay=1e-4,
        clip_norm=0.0,
    )
    config.loss.update(ohem_threshold=0.7, ohem_min_kept_fraction=1 / 16)
    if dataset == "cityscapes":
        config.total_steps = 185_938
        config.eval.size = (512, 1024)  # the logits are scored at 1024x2048
    elif dataset == "camvid":
        config.input.update(batch_size=16, crop=(360, 480), scale=(0.5, 2.0))
        config.input.update(brightness=0.0, contrast=0.0, saturation=0.0)
        config.total_steps = 18_350
        # No mining: the classes are weighted, as ENet weights them (our choice).
        config.loss.ohem_threshold = 0.0
        config.loss.class_weights = _CAMVID
    else:  # 900 steps want larger ones (our choice)
        config.optimizer.update(learning_rate=2e-3, final_learning_rate=0.0)
    return config
