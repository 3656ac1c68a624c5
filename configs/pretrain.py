"""Pre-training of a network's backbone on ImageNet, by DFANet's recipe (§4.1).

    python -m eseg_jax.main --config=configs/pretrain.py:dfanet_a --workdir=DIR \
        --config.dataset.root=FOLDER

The argument is any segmentation network; what is trained is its backbone under a
classifier. FOLDER has train/<class>/*.jpg and val/<class>/*.jpg; for
--config.dataset.name=imagenet2012 --config.dataset.eval_split=validation it is the
data_dir of TensorFlow Datasets, prepared as array_record. The network then starts from
it with

    --config.init_from=DIR --config.init_part=backbone

DFANet starts all its sub-networks from the one backbone, and its attentions from the
classifier if that has ImageNet's 1,000 classes.

SGD with Nesterov momentum 0.9 and weight decay 4e-5, batches of 256 crops of 224x224,
30 epochs at 0.3 and 30 at 0.03: total_steps is 60 epochs of ImageNet's 1,281,167
images; of another dataset it is 60 * images / 256. The paper gives no augmentation: the
crops are Inception's (8 to 100 % of the area) with flips, and the evaluation shows the
middle 224 of 256 pixels. It prints no accuracy; a public reimplementation of Xception A
reports 57.3 % top-1 and 80.6 % top-5 after 90 epochs (yannik96). Not reproduced here
yet. The other papers use other recipes or weights that others published (ESeg, SFNet),
or none (FRFNet): for them this is our choice.
"""

from configs import base


def get_config(name: str = "dfanet_a"):
    config = base.get_config()
    config.unlock()
    config.dataset.name = "class_folders"
    config.model.name = name
    config.input.update(batch_size=256, crop=(224, 224))
    config.total_steps = 300_274
    config.optimizer.update(
        learning_rate=0.3,
        schedule="steps",
        step_at=(0.5,),
        step_factor=0.1,
        warmup_steps=0,
        momentum=0.9,
        nesterov=True,
        weight_decay=4e-5,
        clip_norm=0.0,
    )
    config.eval.batch_size = 256
    config.log_every = 100
    config.eval_every = 5_005  # an epoch of ImageNet
    config.checkpoint_every = 5_005
    return config.lock()
