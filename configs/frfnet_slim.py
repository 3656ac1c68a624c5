"""FRFNet-slim: FRFNet with a narrower stem and depthwise re-use convolutions (§3).

    python -m eseg_jax.main --config=configs/frfnet_slim.py --workdir=DIR

FRFNet's recipe and its caveats. The paper reports 65 % mIoU on the Cityscapes test set
(Table 1). Not reproduced here yet, nor found reproduced in public.
"""

from configs import frfnet


def get_config(dataset: str = "cityscapes"):
    config = frfnet.get_config(dataset)
    config.model.name = "frfnet_slim"
    return config
