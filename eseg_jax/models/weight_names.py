"""Our names of layers -> those of the code that weights come from.

A function takes one of our names, "params/…" or "batch_stats/…", and the variant's
encoder, and gives the name of the same array there. Classifiers are those of
`models.create_classifier`.
"""

from __future__ import annotations

import re

from eseg_jax.models.backbones import efficientnet

_TORCH_LEAVES = {"bias": "bias", "mean": "running_mean", "var": "running_var"}
_TF_LEAVES = {
    "scale": "gamma",
    "bias": "beta",
    "mean": "moving_mean",
    "var": "moving_variance",
}


def ours(name: str, encoder: str) -> str:
    return name


def _torch_name(name: str, rules: list[tuple[str, str]]) -> str:
    """Applies (pattern, replacement) in turn to the module; names its leaf."""
    _, *modules, leaf = name.split("/")
    module = "/".join(modules)
    for pattern, replacement in rules:
        module = re.sub(pattern, replacement, module)
    return f"{module.replace('/', '.')}.{_TORCH_LEAVES.get(leaf, 'weight')}"


def _numbered_stem(prefix: str) -> list[tuple[str, str]]:
    """encoder/stem1/conv … encoder/stem3/conv -> prefix.0, .1, .3, .4, .6."""
    kinds = [(i, kind) for i in (1, 2, 3) for kind in ("conv", "bn")]
    return [
        (f"^encoder/stem{i}/{kind}$", f"{prefix}.{3 * (i - 1) + (kind == 'bn')}")
        for i, kind in kinds
    ]


_RESNET_BLOCKS = [
    (r"^encoder/(layer\d)_(\d+)/", r"\1.\2/"),
    (r"/(conv\d)/conv$", r"/\1"),
    (r"/conv(\d)/bn$", r"/bn\1"),
    (r"/downsample/conv$", r"/downsample.0"),
    (r"/downsample/bn$", r"/downsample.1"),
]
_DFNET_BLOCKS = [
    (r"^encoder/(stage\w+)_(\d+)/", r"\1.\2/"),
    *_RESNET_BLOCKS[1:],
]
_SFNET_HEAD = [
    (r"^ppm/branch_(\d)/conv$", r"head.ppm.stages.\1.1"),
    (r"^ppm/branch_(\d)/bn$", r"head.ppm.stages.\1.2"),
    (r"^ppm/bottleneck", r"head.ppm.bottleneck"),
    (r"^lateral_(\d)", r"head.fpn_in.\1"),
    (r"^fpn_out_(\d)", r"head.fpn_out.\1.0"),
    (r"^fam_(\d)", r"head.fpn_out_align.\1"),
    (r"^dsn_(\d)/classifier$", r"head.dsn.\1.4"),
    (r"^dsn_(\d)/conv", r"head.dsn.\1"),
    (r"^conv_last", r"head.conv_last.0"),
    (r"^classifier$", r"head.conv_last.1"),
    (r"/conv$", r".0"),
    (r"/bn$", r".1"),
]
_SHUFFLENET = [
    (r"^encoder/stem/", "conv1/"),
    (r"^encoder/(conv5)/", r"\1/"),
    (r"^encoder/(stage\d)_(\d+)/", r"\1.\2."),
    (r"branch1_depthwise/conv$", "branch1.0"),
    (r"branch1_depthwise/bn$", "branch1.1"),
    (r"branch1_pointwise/conv$", "branch1.2"),
    (r"branch1_pointwise/bn$", "branch1.3"),
    (r"branch2_expand/conv$", "branch2.0"),
    (r"branch2_expand/bn$", "branch2.1"),
    (r"branch2_depthwise/conv$", "branch2.3"),
    (r"branch2_depthwise/bn$", "branch2.4"),
    (r"branch2_project/conv$", "branch2.5"),
    (r"branch2_project/bn$", "branch2.6"),
    (r"/conv$", ".0"),
    (r"/bn$", ".1"),
]
_LUKEMELAS = [
    (r"^encoder/stem/conv$", "_conv_stem"),
    (r"^encoder/stem/bn$", "_bn0"),
    (r"^encoder/blocks_(\d+)/", r"_blocks.\1/"),
    (r"/(expand|depthwise|project)/conv$", r"/_\1_conv"),
    (r"/expand/bn$", "/_bn0"),
    (r"/depthwise/bn$", "/_bn1"),
    (r"/project/bn$", "/_bn2"),
    (r"/se/(reduce|expand)$", r"/_se_\1"),
    (r"^head/conv$", "_conv_head"),
    (r"^head/bn$", "_bn1"),
    (r"^classifier$", "_fc"),
]
_TIMM_EFFICIENTNET = [
    (r"^encoder/stem/conv$", "conv_stem"),
    (r"^encoder/stem/bn$", "bn1"),
    (r"^head/conv$", "conv_head"),
    (r"^head/bn$", "bn2"),
    (r"/se/(reduce|expand)$", r"/se/conv_\1"),
]


_FC = [(r"^classifier$", "fc")]


def authors_resnet(name: str, encoder: str) -> str:
    stem = [("^encoder/stem3/bn$", "layer0.1"), *_numbered_stem("layer0.0")]
    return _torch_name(name, [*stem, *_RESNET_BLOCKS, *_SFNET_HEAD])


def deep_resnet(name: str, encoder: str) -> str:
    stem = [("^encoder/stem3/bn$", "bn1"), *_numbered_stem("conv1")]
    return _torch_name(name, [*stem, *_RESNET_BLOCKS, *_FC])


def resnet(name: str, encoder: str) -> str:
    stem = [("^encoder/stem/conv$", "conv1"), ("^encoder/stem/bn$", "bn1")]
    return _torch_name(name, [*stem, *_RESNET_BLOCKS, *_FC])


def dfnet(name: str, encoder: str) -> str:
    return _torch_name(name, [*_numbered_stem("stage1"), *_DFNET_BLOCKS, *_FC])


def authors_dfnet(name: str, encoder: str) -> str:
    if "/encoder/" in name:
        return f"backbone.{dfnet(name, encoder)}"
    return _torch_name(name, _SFNET_HEAD)


def shufflenet(name: str, encoder: str) -> str:
    return _torch_name(name, [*_SHUFFLENET, *_FC])


def lukemelas(name: str, encoder: str) -> str:
    return _torch_name(name, _LUKEMELAS)


def timm_efficientnet(name: str, encoder: str) -> str:
    """Blocks are counted within their stage; those of stage 0 have no expansion."""
    block = re.search(r"/encoder/blocks_(\d+)/", name)
    if block is None:
        return _torch_name(name, _TIMM_EFFICIENTNET)
    repeats = _stage_repeats(encoder)
    stage, i = 0, int(block[1])
    while i >= repeats[stage]:
        i -= repeats[stage]
        stage += 1
    # With an expansion all comes one later.
    convs = ("conv_pw", "conv_dw", "conv_pwl") if stage else ("", "conv_dw", "conv_pw")
    first = 1 if stage else 0
    rules = [(r"^encoder/blocks_\d+/", f"blocks.{stage}.{i}/")]
    for j, part in enumerate(("expand", "depthwise", "project")):
        rules.append((f"/{part}/conv$", f"/{convs[j]}"))
        rules.append((f"/{part}/bn$", f"/bn{j + first}"))
    return _torch_name(name, [*rules, *_TIMM_EFFICIENTNET])


def tf_efficientnet(name: str, encoder: str) -> str:
    """Layers of one kind are counted within their scope."""
    _, *modules, leaf = name.split("/")
    if modules == ["classifier"]:
        return f"head/dense/{leaf}"
    scope, *layer = modules[1:] if modules[0] == "encoder" else modules
    number = 0
    if layer[0] == "se":
        scope, number, kind = (
            f"{scope}/se",
            ("reduce", "expand").index(layer[1]),
            "conv",
        )
    else:
        kind = layer[-1]
        if block := re.fullmatch(r"blocks_(\d+)", scope):
            expands = int(block[1]) >= _stage_repeats(encoder)[0]
            parts = ("expand", "depthwise", "project")[0 if expands else 1 :]
            if kind == "bn":
                number = parts.index(layer[0])
            elif layer[0] == "depthwise":
                return f"{scope}/depthwise_conv2d/depthwise_kernel"
            else:
                number = int(expands and layer[0] == "project")
    count = f"_{number}" if number else ""
    if kind == "bn":
        return f"{scope}/batch_normalization{count}/{_TF_LEAVES[leaf]}"
    return f"{scope}/conv2d{count}/{leaf}"


def _stage_repeats(encoder: str) -> list[int]:
    lite = encoder in efficientnet.LITE_SCALES
    scales = efficientnet.LITE_SCALES if lite else efficientnet.SCALES
    return efficientnet.stage_repeats(scales[encoder][1], lite)
