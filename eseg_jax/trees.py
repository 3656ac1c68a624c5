"""Trees of arrays <-> names such as "encoder/stem/conv/kernel"."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax


def map_with_names(
    function: Callable[[str, Any], Any], tree: Any, sep: str = "/"
) -> Any:
    """The tree of function(name, leaf), of the structure of `tree`."""
    return jax.tree.map_with_path(
        lambda path, leaf: function(_name(path, sep), leaf), tree
    )


def flatten_names(tree: Any, sep: str = "/") -> dict[str, Any]:
    """The leaves of any pytree by name: dict keys, fields or indices joined by `sep`.

    Dict keys come in sorted order. Empty subtrees and None have no leaves and so
    no names.
    """
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {_name(path, sep): leaf for path, leaf in leaves}


def unflatten_names(leaves: Mapping[str, Any], sep: str = "/") -> dict[str, Any]:
    """The nested dict whose leaves have these names; inverts `flatten_names`.

    Raises:
      ValueError: when one name is both a leaf and the parent of another.
    """
    tree: dict[str, Any] = {}
    for name in sorted(leaves):  # a parent sorts before its children
        *parents, last = name.split(sep)
        node = tree
        for depth, parent in enumerate(parents, 1):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(
                    f"unflatten_names: {sep.join(parents[:depth])!r} is both a leaf "
                    f"and the parent of {name!r}; rename one of them."
                )
        node[last] = leaves[name]
    return tree


def count_parameters(params: Any) -> int:
    """The number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One line, sorted, for each name that only one has or whose shape differs."""
    shape = {name: tuple(leaf.shape) for name, leaf in found.items()}
    goal = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    lines = [f"missing {name} {goal[name]}" for name in goal.keys() - shape.keys()]
    lines += [f"extra {name} {shape[name]}" for name in shape.keys() - goal.keys()]
    lines += [
        f"{name} is {shape[name]} there and {goal[name]} here"
        for name in goal.keys() & shape.keys()
        if goal[name] != shape[name]
    ]
    return sorted(lines)


def _name(path: tuple[Any, ...], sep: str) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=sep)
