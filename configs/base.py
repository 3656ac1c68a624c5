"""What every configuration starts from: the ESeg recipe of the paper's §4.2.

A configuration file calls `get_config(dataset)` and sets its differences. `dataset` is
the argument behind the file name: `configs/eseg_s.py:camvid`. Values the paper does
not give are EfficientDet's, from the same authors; each says so.
"""

from ml_collections import ConfigDict


def get_config(dataset: str = "cityscapes") -> ConfigDict:
    """The recipe for "cityscapes" (default), "ade20k", "camvid", "scenes" or "folder".

    The last is Cityscapes' for your own images. config.dataset.name takes any name of
    eseg_jax/input/datasets/, too; then crop and steps are still those of the argument.
    """
    config = ConfigDict()
    config.seed = 0
    # Compute type: "bfloat16", "float32", or "auto" for bfloat16 on TPU and GPU.
    config.dtype = "auto"
    # Any field of the model's variant can be set in `options`, such as max_level.
    config.model = ConfigDict({"name": "eseg_s", "options": {}})
    # What a fresh run starts from in place of random numbers: a folder that
    # tools.convert wrote, or another run's workdir; "all" of it, its "backbone", or
    # "all_but_classifier", for other classes.
    config.init_from = ""
    config.init_part = "all"

    # source: "files" in the dataset's own layout, or "tfds" for records that a builder
    # in data/ prepared. An empty root means the environment variable of the dataset or
    # datasets/<name>; for records, TFDS' data_dir.
    config.dataset = ConfigDict(
        {
            "name": "cityscapes",
            "source": "files",
            "root": "",
            "train_split": "train",
            "eval_split": "val",
            # A folder that --mode=pseudo_label made: the student's second half.
            "pseudo": "",
            "pseudo_root": "",  # where its images are, if not where they were
            # Whether the teacher may have been trained on what is evaluated.
            "pseudo_may_know_eval": False,
        }
    )
    config.input = ConfigDict(
        {
            "batch_size": 16,  # over all devices
            "crop": (512, 1024),
            "scale": (0.5, 2.0),
            "long_side": 0,  # pixels of it at scale 1; 0 leaves images as they are
            "scale_step": 0.0,  # above 0: only the scales low, low + step, …
            "flip": True,
            "brightness": 0.0,
            "contrast": 0.0,
            "saturation": 0.0,
            "hue": 0.0,
            "blur": (0.0, 0.0),  # sigma of a Gaussian in pixels, (low, high)
            # Share of the crops that is drawn around classes, each as often, and the
            # table of their places; see `python -m eseg_jax.tools.class_centroids`.
            "class_uniform": 0.0,
            "centroids": "",
            # With dataset.pseudo: the share of pseudo-labels in every batch; 0 for
            # them as they are, or a threshold of their confidence in place of the
            # teacher's; whether a pixel counts by its confidence (it is kept with that
            # probability).
            "pseudo_fraction": 0.5,
            "pseudo_threshold": 0.0,
            "pseudo_weights": False,
            "max_broken_files": 0,
            # Files to keep in memory as they are, for buckets: reading from a disk
            # again is as fast.
            "cache_gb": 0.0,
        }
    )

    config.total_steps = 90_000
    config.optimizer = ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.08,
            "schedule": "cosine",
            "poly_power": 0.9,
            # The schedule "steps": shares of the run at which the rate is multiplied.
            "step_at": (0.5,),
            "step_factor": 0.1,
            "final_learning_rate": 0.0,
            "warmup_steps": 186,  # one epoch of Cityscapes, as EfficientDet
            "warmup_factor": 0.1,  # as EfficientDet
            "momentum": 0.9,
            "nesterov": False,
            "b1": 0.9,
            "b2": 0.999,
            "weight_decay": 5e-5,
            "weight_decay_on": r".*/kernel$",
            "clip_norm": 10.0,  # as EfficientDet; 0 is off
            "frozen": "",
            "multipliers": (),
        }
    )
    # Micro-batches a step is split into; batch normalisation then sees each alone.
    config.accumulate_steps = 1
    # What blocks of the network compute again for the gradient, to save memory: "none",
    # "convolutions" (all but convolutions), or "blocks" (all but what enters a block).
    config.remat = "none"
    # Updates with a loss or gradient that is not finite that may be skipped in a run.
    config.skip_nonfinite = 0
    config.ema_decay = 0.9998  # as EfficientDet
    config.loss = ConfigDict(
        {
            # Online hard example mining; a threshold of 0 turns it off.
            "ohem_threshold": 0.9,
            "ohem_min_kept_fraction": 0.125,
            "ohem_rule": "hrnet",  # or "sfnet": at the threshold, see losses.ohem_mask
            "class_weights": (),
            "aux_weight": 1.0,  # of each training head, where the network has some
        }
    )

    config.eval = ConfigDict(
        {
            "batch_size": 8,
            "weights": "ema",
            "images": 8,  # shown in the report
            "worst": 4,  # shown besides: those with the lowest mIoU
            # Thresholds of the boundary F-score, pixels or shares of the diagonal:
            # SFNet's are 0.0005, 0.001875, 0.00375, 0.005; none computes none.
            "boundary": (),
            # How an image is tested: see the fields of eseg_jax/protocols.py.
            "scales": (1.0,),
            "flip": False,
            "average": "probabilities",
            "window": (),
            "overlap": 1 / 3,
            "size": (),
        }
    )
    # --mode=pseudo_label: the run in the workdir labels images (ESeg §4.4).
    config.pseudo = ConfigDict(
        {
            # What to label: a split of config.dataset or, if set, a folder or pattern.
            "split": "train_extra",
            "images": "",
            "output": "",  # folder; by default pseudo/<split> in the workdir
            "weights": "ema",
            "scales": (0.5, 1.0, 2.0),
            "flip": True,
            # A pixel is kept if its class's probability is above this; of each class,
            # in the order of train ids, if there are several.
            "threshold": 0.5,
            "class_thresholds": (),
            # Below 1 also: if it is in the most confident share of its class.
            "top_fraction": 1.0,
            "batch_size": 1,  # images at a time on each device
            # A program is compiled for each size of image, the sides rounded up to a
            # multiple of this; 1 keeps them, 0 is 1 or, if they have many sizes, 64.
            "size_step": 0,
            # Above 0: images and answers go to TFRecord shards of so many images.
            "shard_images": 0,
        }
    )
    config.log_every = 50
    config.eval_every = 2_000
    config.checkpoint_every = 2_000
    config.keep_checkpoints = 2  # the latest; the best is kept besides
    # Devices along each axis; -1 = the rest. "data" splits batches, "spatial" the rows
    # of images that are too large for one chip.
    config.mesh = ConfigDict({"data": -1, "spatial": 1})
    # Parameters, averages and optimiser state are on every device, but for what the
    # pairs (regular expression, axes) here split; see eseg_jax.sharding.by_rules.
    config.sharding_rules = ()
    # Where compiled programs are kept: "auto" for JAX_COMPILATION_CACHE_DIR or else
    # compilation_cache/ in the workdir; a folder or bucket; "" for nowhere.
    config.compilation_cache = "auto"
    config.stuck_after = 120.0  # seconds until a stage counts as stuck; 0 = never
    config.profile = ""  # "10:20" writes a trace of steps 10 to 19, for xprof

    if dataset == "cityscapes":
        pass
    elif dataset == "camvid":
        _camvid(config)
    elif dataset == "scenes":
        _scenes(config)
    elif dataset == "ade20k":
        _ade20k(config)
    elif dataset == "folder":
        _folder(config)
    else:
        raise ValueError(
            f"There is no dataset {dataset!r} behind the configuration's name; "
            "use :cityscapes, :ade20k, :folder, :camvid or :scenes."
        )
    return config.lock()


def _camvid(config: ConfigDict) -> None:
    """CamVid at 480x360, in less than an hour of one CPU core (our choice).

    benchmarks/camvid.md tells what was tried and what more steps bring.
    """
    config.dataset.name = "camvid"
    config.input.update(batch_size=8, crop=(240, 320), scale=(0.5, 1.25))
    config.input.update(brightness=0.2, contrast=0.2, saturation=0.2)
    # As for the scenes: a short run underfits.
    config.model.options = ConfigDict({"drop_rate": 0.0})
    config.total_steps = 2_400
    config.optimizer.update(
        name="adam", learning_rate=2e-3, warmup_steps=50, weight_decay=1e-4
    )
    config.loss.ohem_threshold = 0.0
    # The square roots of ENet's weights; whole ones make blobs of poles and signs.
    weights = (1.3, 1.13, 3.2, 1.0, 2.1, 1.6, 3.1, 3.1, 2.0, 3.4, 3.6)
    config.loss.class_weights = weights
    config.eval_every = 300
    config.checkpoint_every = 300


def _ade20k(config: ConfigDict) -> None:
    """ADE20K as in §4.2: 520x520, 300 epochs."""
    config.dataset.name = "ade20k"
    config.input.crop = (520, 520)
    config.total_steps = 378_900
    config.optimizer.warmup_steps = 1_263  # one epoch
    config.eval.update(batch_size=1, size=(520, 520))  # the images differ in size


def _folder(config: ConfigDict) -> None:
    """Your own images and masks; eseg_jax/input/datasets/folder.py has the fields."""
    config.dataset.name = "folder"
    config.dataset.images = "images/{split}/{id}.*"
    config.dataset.masks = "masks/{split}/{id}.png"
    config.dataset.lists = ""
    config.dataset.classes = ()
    config.dataset.ignored = (255,)
    config.dataset.colour_masks = False
    config.dataset.records = "folder/default"


def _scenes(config: ConfigDict) -> None:
    """The built-in street scenes, in minutes on two CPU cores (our choice)."""
    config.dataset.update(name="scenes")
    config.dataset.size = (128, 256)
    config.dataset.train_images = 4_000  # kept in memory once drawn: 0.5 GB
    config.dataset.extra_images = 400  # of the split train_extra
    config.dataset.eval_images = 100
    # So short a run underfits: no scale jitter, no drop-connect.
    config.model.options = ConfigDict({"drop_rate": 0.0})
    config.input.update(batch_size=8, crop=(128, 256), scale=(1.0, 1.0))
    config.total_steps = 900
    config.optimizer.warmup_steps = 50
    config.eval.batch_size = 20
    config.log_every = 20
    config.eval_every = 300
    config.checkpoint_every = 300
