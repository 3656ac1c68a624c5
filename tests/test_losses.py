import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from eseg_jax import losses
from eseg_jax.losses import (
    classification_loss,
    cross_entropy,
    kth_smallest,
    masked_mean,
    ohem_mask,
    segmentation_loss,
)

LOG2 = math.log(2)


def row(*probabilities):
    """Logits [1,1,w,2] whose softmax gives class 0 these probabilities."""
    p = np.array(probabilities, np.float32)
    return jnp.log(jnp.stack([p, 1 - p], axis=-1))[None, None]


def random_case(seed, shape=(4, 6, 8), classes=5):
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(*shape, classes)).astype(np.float32) * 4
    labels = draw.choice([*range(classes), 255], size=shape).astype(np.uint8)
    return jnp.asarray(logits), jnp.asarray(labels)


# ---------------------------------------------------------------- cross_entropy


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32])
def test_cross_entropy_by_hand(dtype):
    logits = jnp.log(jnp.array([[[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]]]))
    values, valid = cross_entropy(logits, jnp.array([[[0, 2]]], dtype))
    np.testing.assert_allclose(values, [[[LOG2, 2 * LOG2]]], rtol=1e-6)
    assert valid.all()


@pytest.mark.parametrize("label", [255, 3, -1])
def test_label_out_of_range_is_ignored(label):
    logits = jnp.array([[[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]]])
    labels = jnp.array([[[label, 0]]], jnp.int32)
    values, valid = cross_entropy(logits, labels)
    assert valid.tolist() == [[[False, True]]]
    assert values[0, 0, 0] == 0
    gradient = jax.grad(lambda x: cross_entropy(x, labels)[0].sum())(logits)
    assert (gradient[0, 0, 0] == 0).all()
    assert (gradient[0, 0, 1] != 0).all()


def test_cross_entropy_is_float32_and_does_not_overflow():
    logits = jnp.array([[[[1e4, -1e4]]]], jnp.bfloat16)
    values, _ = cross_entropy(logits, jnp.array([[[1]]], jnp.uint8))
    assert values.dtype == jnp.float32
    # 1e4 is 9984 in bfloat16.
    assert values.tolist() == [[[2 * 9984.0]]]


def test_labels_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"labels \(1, 2, 2\) do not fit"):
        cross_entropy(jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 2, 2), jnp.uint8))


# ---------------------------------------------------------------- masked_mean


def test_masked_mean_by_hand():
    values = jnp.array([1.0, 2.0, 4.0])
    assert masked_mean(values, jnp.array([True, False, True])) == 2.5
    assert masked_mean(values, jnp.array([0.5, 0.0, 1.5])) == 3.25


def test_masked_mean_of_nothing_is_zero_with_zero_gradient():
    nothing = jnp.zeros(3, bool)
    value, gradient = jax.value_and_grad(masked_mean)(jnp.ones(3), nothing)
    assert value == 0
    assert gradient.tolist() == [0, 0, 0]


# ---------------------------------------------------------------- kth_smallest


@pytest.mark.parametrize("bits_a_round", [1, 4])
def test_kth_smallest_equals_the_sort(bits_a_round):
    draw = np.random.default_rng(0)
    values = draw.random((3, 4, 5)).astype(np.float32)
    values[0] = np.round(values[0], 1)  # ties
    values[1, 0] = [0, 0, 2, 2, 1]
    values[1, 1, 0] = 1e-42  # subnormal
    find = functools.partial(losses._kth_smallest, bits_a_round=bits_a_round)
    found = jax.jit(jax.vmap(find, (None, 0)))(values, jnp.arange(60))
    np.testing.assert_array_equal(found, np.sort(values.ravel()))


def test_kth_smallest_of_one():
    assert kth_smallest(jnp.array([0.25]), 0) == 0.25


# ---------------------------------------------------------------- OHEM


def kept(p, threshold, fraction, ignored=()):
    labels = np.zeros((1, 1, len(p)), np.uint8)
    labels[0, 0, list(ignored)] = 255
    values, valid = cross_entropy(row(*p), jnp.asarray(labels))
    mask = ohem_mask(values, valid, threshold=threshold, min_kept_fraction=fraction)
    return np.flatnonzero(mask[0, 0]).tolist()


def test_ohem_keeps_all_below_the_threshold():
    # The sorted p at index min_kept = 1 is 0.3 < 0.9, so the threshold rules.
    assert kept([0.95, 0.1, 0.3, 0.89], 0.9, 0.25) == [1, 2, 3]


def test_ohem_keeps_min_kept_above_the_threshold():
    # min_kept = 2: the sorted p at index 2 is 0.97, which strict < drops.
    assert kept([0.99, 0.92, 0.97, 0.95], 0.9, 0.5) == [1, 3]


def test_ohem_min_kept_counts_ignored_pixels_of_the_batch():
    # min_kept = 2 of 4 pixels; three are valid, so index 2 is the largest, 0.99.
    assert kept([0.99, 0.92, 0.1, 0.95], 0.9, 0.5, ignored=[2]) == [1, 3]


def test_ohem_min_kept_stops_at_the_valid_pixels():
    assert kept([0.99, 0.92, 0.97, 0.95], 0.9, 1.0) == [1, 2, 3]
    assert kept([0.99, 0.92, 0.97, 0.95], 0.9, 1.0, ignored=[1, 2]) == [3]


def test_ohem_with_no_valid_pixel_keeps_none():
    assert kept([0.1, 0.2], 0.9, 0.5, ignored=[0, 1]) == []


def test_ohem_drops_ties_at_the_threshold():
    assert kept([0.95, 0.95, 0.95, 0.92], 0.9, 0.5) == [3]


def test_ohem_does_not_hide_logits_that_are_not_numbers():
    assert kept([0.95, np.nan, 0.99, 0.92], 0.9, 0.25) == [1, 3]


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.9])
def test_ohem_equals_the_rule_of_hrnet(threshold):
    logits, labels = random_case(1)
    values, valid = cross_entropy(logits, labels)
    mask = ohem_mask(values, valid, threshold=threshold, min_kept_fraction=0.125)
    values, valid = np.asarray(values), np.asarray(valid)
    p = np.asarray(jnp.exp(-values))
    in_order = np.sort(p[valid])
    chosen = in_order[min(int(0.125 * p.size), valid.sum() - 1)]
    np.testing.assert_array_equal(
        mask, valid & (p < max(np.float32(threshold), chosen))
    )
    assert 0 < mask.sum() < valid.sum()


@pytest.mark.parametrize(("min_kept", "kept"), [(2, 2), (3, 3), (9, 3)])
def test_sfnets_rule_keeps_the_threshold_and_all_of_few_pixels(min_kept, kept):
    logits, labels = row(0.1, 0.2, 0.3), jnp.zeros((1, 1, 3), jnp.int32)
    mask = ohem_mask(
        *cross_entropy(logits, labels),
        threshold=0.05,
        min_kept_fraction=min_kept / 3,
        rule="sfnet",
    )
    assert mask.sum() == kept


@pytest.mark.parametrize("case", range(5))
def test_sfnets_rule_equals_its_code(fixtures, case):
    data = np.load(fixtures / "sfnet" / "ohem_cases.npz")
    logits, target, loss, gradient, kept, config = (
        data[f"c{case}_{name}"]
        for name in ("logits", "target", "loss", "grad", "nkept", "cfg")
    )
    threshold, min_kept, ignored = config
    ohem = {
        "threshold": threshold,
        # Half a pixel more, so that no rounding takes one away.
        "min_kept_fraction": (min_kept + 0.5) / target.size,
        "rule": "sfnet",
    }
    labels = jnp.asarray(np.where(target == ignored, 255, target).astype(np.uint8))
    logits = jnp.asarray(np.moveaxis(logits, 1, -1))

    def criterion(logits):
        outputs = {"logits": logits, "aux": {}}
        return segmentation_loss(outputs, labels, ohem=ohem)[0]

    assert ohem_mask(*cross_entropy(logits, labels), **ohem).sum() == kept
    value, grad = jax.value_and_grad(criterion)(logits)
    np.testing.assert_allclose(value, loss, atol=2e-6)
    np.testing.assert_allclose(grad, np.moveaxis(gradient, 1, -1), atol=4e-7)


# ---------------------------------------------------------------- segmentation_loss

OHEM = {"threshold": 0.9, "min_kept_fraction": 0.25}


def test_loss_is_the_mean_over_valid_pixels():
    outputs = {"logits": row(0.5, 0.25, 0.1), "aux": {}}
    loss, parts = segmentation_loss(outputs, jnp.array([[[0, 0, 255]]], jnp.uint8))
    np.testing.assert_allclose(loss, 1.5 * LOG2, rtol=1e-6)
    assert list(parts) == ["loss_main"]


def test_loss_resizes_logits_to_the_labels():
    # One pixel of logits is constant over any size.
    outputs = {"logits": row(0.25), "aux": {}}
    loss, _ = segmentation_loss(outputs, jnp.zeros((1, 3, 5), jnp.uint8))
    np.testing.assert_allclose(loss, 2 * LOG2, rtol=1e-6)


def test_loss_with_ohem_is_the_mean_over_kept_pixels():
    outputs = {"logits": row(0.5, 0.25, 0.95, 0.99), "aux": {}}
    labels = jnp.zeros((1, 1, 4), jnp.uint8)
    loss, parts = segmentation_loss(outputs, labels, ohem=OHEM)
    np.testing.assert_allclose(loss, 1.5 * LOG2, rtol=1e-6)
    assert parts["ohem_kept"] == 0.5
    gradient = jax.grad(lambda x: segmentation_loss(x, labels, ohem=OHEM)[0])(outputs)
    dropped, trained = gradient["logits"][0, 0, 2:], gradient["logits"][0, 0, :2]
    assert (dropped == 0).all()
    # d/dlogit of -log p over two pixels: (p - 1) / 2.
    np.testing.assert_allclose(trained[:, 0], [-0.25, -0.375], rtol=1e-6)


def test_loss_adds_weighted_aux_with_their_own_selection():
    outputs = {
        "logits": row(0.5, 0.99),
        "aux": {"p3": row(0.95, 0.25), "unused": row(0.1, 0.1)},
    }
    loss, parts = segmentation_loss(
        outputs, jnp.zeros((1, 1, 2), jnp.uint8), ohem=OHEM, aux_weights={"p3": 0.4}
    )
    np.testing.assert_allclose(parts["loss_main"], LOG2, rtol=1e-6)
    np.testing.assert_allclose(parts["loss_p3"], 2 * LOG2, rtol=1e-6)
    np.testing.assert_allclose(loss, 1.8 * LOG2, rtol=1e-6)
    assert sorted(parts) == ["loss_main", "loss_p3", "ohem_kept"]


def test_loss_with_class_weights_is_the_weighted_mean():
    outputs = {"logits": row(0.5, 0.75, 0.1), "aux": {}}
    labels = jnp.array([[[0, 1, 255]]], jnp.uint8)
    loss, _ = segmentation_loss(outputs, labels, class_weights=(1.0, 3.0))
    np.testing.assert_allclose(loss, (LOG2 + 3 * 2 * LOG2) / 4, rtol=1e-6)


def test_loss_names_an_unknown_aux_output():
    outputs = {"logits": row(0.5), "aux": {"p3": row(0.5)}}
    with pytest.raises(ValueError, match=r"\['p4'\].*are \['p3'\]"):
        segmentation_loss(outputs, jnp.zeros((1, 1, 1), int), aux_weights={"p4": 1.0})


def test_loss_counts_the_class_weights():
    outputs = {"logits": row(0.5), "aux": {}}
    with pytest.raises(ValueError, match="3 entries, but the model has 2 classes"):
        segmentation_loss(outputs, jnp.zeros((1, 1, 1), int), class_weights=(1, 1, 1))


OPTIONS = {
    "plain": {},
    "all": dict(ohem=OHEM, class_weights=(1, 2, 3, 4, 5), aux_weights={"p3": 0.4}),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_all_ignored_is_zero_with_zero_gradient(options):
    logits, labels = random_case(2)
    outputs = {"logits": logits, "aux": {"p3": logits[:, ::2, ::2]}}
    loss, gradient = jax.value_and_grad(
        lambda x: segmentation_loss(x, jnp.full_like(labels, 255), **options)[0]
    )(outputs)
    assert loss == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_sharded_batch_gives_the_same_loss_by_all_reduces_only(mesh, options):
    logits, labels = random_case(3)
    # Confident enough that the threshold is that of the k-th pixel.
    logits += 12 * jax.nn.one_hot(labels, logits.shape[-1])
    outputs = {"logits": logits, "aux": {"p3": logits[:, ::2, ::2]}}
    step = jax.value_and_grad(lambda x, y: segmentation_loss(x, y, **options)[0])
    loss, gradient = jax.jit(step)(outputs, labels)

    inputs = jax.device_put(
        (outputs, labels), NamedSharding(mesh, PartitionSpec("data"))
    )
    compiled = jax.jit(step).lower(*inputs).compile()
    text = compiled.as_text()
    assert " all-reduce(" in text
    for operation in ("all-gather", "all-to-all", "collective-permute", "sort"):
        assert f" {operation}(" not in text, operation

    sharded_loss, sharded_gradient = compiled(*inputs)
    np.testing.assert_allclose(sharded_loss, loss, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8),
        sharded_gradient,
        gradient,
    )
    if "ohem" in options:
        _, parts = segmentation_loss(outputs, labels, **options)
        assert 0 < parts["ohem_kept"] < 0.5


def test_classification_loss_by_hand():
    # Probabilities 3/4 and 1/2 of the true classes; the third image is padding. The
    # second image's two classes are equal, so that argmax takes the wrong one.
    logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0], [1.0, 9.0]]))
    labels = jnp.array([1, 1, -1], jnp.int32)
    loss, parts = classification_loss({"logits": logits, "aux": {}}, labels)
    assert float(loss) == pytest.approx(-(math.log(3 / 4) + math.log(1 / 2)) / 2)
    assert float(parts["top1"]) == 0.5
