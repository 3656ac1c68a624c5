"""DFANet B: three Xception-B sub-networks, a decoder of deep and shallow maps (§3).

    python -m eseg_jax.main --config=configs/dfanet_b.py --workdir=DIR

DFANet A's recipe. The paper reports 68.4 % mIoU on the Cityscapes validation set
(Table 4) and 67.1 on test (Table 5). Not reproduced here yet.
"""

from configs import dfanet_a


def get_config(dataset: str = "cityscapes"):
    config = dfanet_a.get_config(dataset)
    config.model.name = "dfanet_b"
    return config
