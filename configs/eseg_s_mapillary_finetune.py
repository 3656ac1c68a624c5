"""ESeg-S from Mapillary Vistas to Cityscapes (ESeg §4.4).

    python -m eseg_jax.main --config=configs/eseg_s_mapillary_finetune.py \
        --workdir=DIR --config.init_from=PRETRAINED

PRETRAINED is the workdir of configs/eseg_s_mapillary_pretrain.py. Everything but the
classifier starts from it; 200 epochs of 2,975 images in batches of 16, 37,188 steps, at
a learning rate of 0.01. The paper reports 81.1 % mIoU on the validation set (Table 7).
Not reproduced here yet.
"""

from configs import base


def get_config(dataset: str = "cityscapes"):
    return recipe("eseg_s", dataset)


def recipe(name: str, dataset: str):
    """The same for any of ESeg's variants."""
    config = base.get_config(dataset)
    config.model.name = name
    config.init_part = "all_but_classifier"
    if dataset != "camvid":  # whose recipe is Adam's, with a rate for it
        config.optimizer.learning_rate = 0.01
    if dataset == "cityscapes":
        config.total_steps = 37_188
    return config
