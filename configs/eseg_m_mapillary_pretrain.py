"""Pre-training of ESeg-M on Mapillary Vistas (ESeg §4.4).

    python -m eseg_jax.main --config=configs/eseg_m_mapillary_pretrain.py \
        --workdir=DIR --config.dataset.root=FOLDER

The recipe of configs/eseg_s_mapillary_pretrain.py. The paper prints no result of this
step; configs/eseg_m_mapillary_finetune.py goes on from it.
"""

from configs import eseg_s_mapillary_pretrain


def get_config(dataset: str = "mapillary"):
    return eseg_s_mapillary_pretrain.recipe("eseg_m", dataset)
