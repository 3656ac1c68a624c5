"""ESeg-L from Mapillary Vistas to Cityscapes (ESeg §4.4).

    python -m eseg_jax.main --config=configs/eseg_l_mapillary_finetune.py \
        --workdir=DIR --config.init_from=PRETRAINED

PRETRAINED is the workdir of configs/eseg_l_mapillary_pretrain.py; the recipe is that
of configs/eseg_s_mapillary_finetune.py. The paper reports 83.8 % mIoU on the
validation set (Table 7). Not reproduced here yet.
"""

from configs import eseg_s_mapillary_finetune


def get_config(dataset: str = "cityscapes"):
    return eseg_s_mapillary_finetune.recipe("eseg_l", dataset)
