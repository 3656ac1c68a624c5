"""DFANet A': DFANet A trained on crops of 512x1024 and tested at that size (Table 5).

    python -m eseg_jax.main --config=configs/dfanet_a_prime.py --workdir=DIR

DFANet A's recipe and its caveats. The paper reports 70.3 % mIoU on the Cityscapes test
set (Table 5). Not reproduced here yet, nor found reproduced in public.
"""

from configs import dfanet_a


def get_config(dataset: str = "cityscapes"):
    config = dfanet_a.get_config(dataset)
    config.model.name = "dfanet_a_prime"
    if dataset == "cityscapes":
        config.input.crop = (512, 1024)
        config.eval.size = (512, 1024)  # the size of its printed FLOPs
    return config
