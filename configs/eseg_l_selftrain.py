"""Self-training of ESeg-L: half true labels, half pseudo-labels (ESeg §4.4).

    python -m eseg_jax.main --mode=pseudo_label --config=configs/eseg_l.py \
        --workdir=TEACHER
    python -m eseg_jax.main --config=configs/eseg_l_selftrain.py --workdir=DIR \
        --config.dataset.pseudo=TEACHER/pseudo/train_extra

The recipe of configs/eseg_s_selftrain.py. The paper reports 83.5 % mIoU on the
Cityscapes validation set (Table 7), 84.8 % when the student also starts from Mapillary
Vistas. Not reproduced here yet.
"""

from configs import eseg_s_selftrain


def get_config(dataset: str = "cityscapes"):
    return eseg_s_selftrain.recipe("eseg_l", dataset)
