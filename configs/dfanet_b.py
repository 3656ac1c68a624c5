"""DFANet B: three Xception-B sub-networks, a decoder of deep and shallow maps (§3).

    python -m eseg_jax.main --config=configs/dfanet_b.py --workdir=DIR

DFANet A's recipe. The paper reports 68.4 % mIoU on the Cityscapes validation set
(Table 4), 67.1 on test (Table 5) and 59.3 on CamVid's (Table 6, `:camvid_720`). Not
reproduced here yet, nor found reproduced in public. The paper prints 4.9 for its size
in Table 4 and 4.8 in Table 5, both megabytes under the name of millions, and
multiply-adds of shorter chains that no reading of the text explains (Table 3: 1.4 and
1.5 G, where we count 1.30 and 1.33).
"""

from configs import dfanet_a


def get_config(dataset: str = "cityscapes"):
    config = dfanet_a.get_config(dataset)
    config.model.name = "dfanet_b"
    return config
