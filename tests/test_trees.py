import collections

import jax
import jax.numpy as jnp
import pytest

from eseg_jax.trees import (
    count_parameters,
    flatten_names,
    map_with_names,
    unflatten_names,
)

TREE = {"encoder": {"stem": {"kernel": 1, "bias": 2}}, "head": {"kernel": 3}}
NAMES = {"encoder/stem/bias": 2, "encoder/stem/kernel": 1, "head/kernel": 3}


def test_flatten_joins_names_in_order():
    flat = flatten_names(TREE)
    assert flat == NAMES
    assert list(flat) == sorted(NAMES)


def test_unflatten_inverts():
    assert unflatten_names(flatten_names(TREE)) == TREE
    assert unflatten_names(flatten_names(TREE, sep="."), sep=".") == TREE


def test_fields_and_indices_have_names():
    pair = collections.namedtuple("Pair", "count trace")
    assert flatten_names([pair(1, {"a": 2})]) == {"0/count": 1, "0/trace/a": 2}


def test_map_keeps_the_structure():
    mapped = map_with_names(lambda name, leaf: (len(name), leaf + 1), TREE)
    assert mapped["head"]["kernel"] == (len("head/kernel"), 4)
    assert mapped["encoder"]["stem"]["bias"] == (len("encoder/stem/bias"), 3)


@pytest.mark.parametrize("parent", ["a", "a/b"])
def test_leaf_that_is_also_a_parent_is_named(parent):
    with pytest.raises(ValueError, match=f"'{parent}' is both a leaf and the parent"):
        unflatten_names({parent: 1, "a/b/c": 2})


def test_counts_scalars_of_arrays_and_shapes():
    tree = {"a": jnp.zeros((2, 3)), "b": jax.ShapeDtypeStruct((4,), jnp.float32)}
    assert count_parameters(tree) == 10
    assert count_parameters({"scalar": jnp.float32(1)}) == 1
