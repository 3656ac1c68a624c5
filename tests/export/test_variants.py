"""Whole networks, folded and as ONNX; minutes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eseg_jax import models
from eseg_jax.export import onnx_format
from eseg_jax.export.graph import trace
from eseg_jax.export.runtimes import load_runtime
from eseg_jax.models.folding import fold
from eseg_jax.state import init_variables
from eseg_jax.trees import map_with_names

pytestmark = pytest.mark.slow


def trained(model):
    """Weights and statistics such as training leaves behind."""
    shapes = jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))
    random = np.random.default_rng(0)

    def draw(name, leaf):
        last = name.split("/")[-1]
        if last == "kernel":
            fan_in = leaf.size // leaf.shape[-1]
            return random.normal(0, (1 / fan_in) ** 0.5, leaf.shape).astype("f")
        low, high = (0.5, 1.5) if last in ("scale", "var", "weights") else (-0.5, 0.5)
        return random.uniform(low, high, leaf.shape).astype("f")

    return map_with_names(draw, shapes)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("eseg_s", {}),
        ("eseg_lite_s", {"fusion": "softmax"}),
        ("eseg_s_fpn_p2_p9", {}),
        ("eseg_resnet50", {"repeats": 1}),
        ("eseg_effnet_lite0", {}),
        ("sfnet_resnet18", {}),
        ("sfnet_resnet18_official", {"warp_align_corners": False}),
        ("sfnet_df1", {"flow_upsampling": "deconvolution"}),
        ("sfnet_df2_official", {"flow_upsampling": "nearest", "fam_levels": (0,)}),
        ("sfnet_shufflenet", {"context": "none", "resize_align_corners": False}),
        ("dfanet_a", {}),
        ("dfanet_b", {"aggregation": "wide_attention", "projection": "separable"}),
        ("dfanet_b_xception_aspp", {}),
        ("frfnet", {}),
        ("frfnet_slim", {"attention": "fca", "ffm": "strict"}),
        ("frfnet_danet", {}),
    ],
)
def test_onnx_of_the_folded_network(name, options, tmp_path):
    pytest.importorskip("onnxruntime")
    model = models.create(name, 11, **options)
    variables = trained(model)
    images = np.random.default_rng(1).normal(size=(1, 96, 128, 3)).astype("f")
    apply = functools.partial(model.apply, train=False)
    wanted = np.asarray(jax.jit(apply)(variables, images)["logits"])

    folded = fold(model, variables)
    nodes = trace(
        lambda x: apply(folded, x)["logits"],
        jax.ShapeDtypeStruct(images.shape, jnp.float32),
    )
    path = str(tmp_path / "model.onnx")
    onnx_format.write(*nodes, "logits", path)
    found = load_runtime(path)(images)
    atol = 1e-4 * np.abs(wanted).max()
    assert atol > 1e-6
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)
