"""Pre-training of ESeg-S on Mapillary Vistas (ESeg §4.4).

    python -m eseg_jax.main --config=configs/eseg_s_mapillary_pretrain.py \
        --workdir=DIR --config.dataset.root=FOLDER

The 65 classes of Vistas 1.2 and its 18,000 training images: the longer side becomes
2048 pixels, crops are 1024x1024, 500 epochs. Batch size and learning rate are not
given; we take the 16 and 0.08 of §4.2, so 562,500 steps. The evaluation resizes images
to 1536x2048. The paper prints no result of this step;
configs/eseg_s_mapillary_finetune.py goes on from it. `:scenes` is the small stand-in
of launch/selftrain.sh: scenes in other colours, of 16 classes.
"""

from configs import base


def get_config(dataset: str = "mapillary"):
    return recipe("eseg_s", dataset)


def recipe(name: str, dataset: str):
    """The same for any of ESeg's variants."""
    if dataset == "scenes":
        config = base.get_config("scenes")
        config.dataset.name = "scenes_abroad"
    else:
        config = base.get_config("cityscapes")
        config.dataset.name = "mapillary_v1"
        config.input.update(crop=(1024, 1024), long_side=2048)
        config.total_steps = 562_500
        config.optimizer.warmup_steps = 1_125  # one epoch
        config.eval.update(batch_size=1, size=(1536, 2048))  # the images differ in size
        config.eval_every = 11_250
        config.checkpoint_every = 5_000
    config.model.name = name
    return config
