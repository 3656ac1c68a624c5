"""The networks again in PyTorch: the peers that this library is measured against.

`create(name, num_classes)` restates the variants that the benchmarks use. Modules have
the names of ours, so that `weights.load` gives a peer our weights; check_peers.py shows
that it then gives our logits. They are plain PyTorch as one would write it for speed:
activations in place, `F.interpolate`, `F.grid_sample`; the caller chooses channels-last
and torch.compile.

An image batch [n, 3, h, w] float32 gives {"logits": [n, c, h / s, w / s], "aux": {…}};
the auxiliary logits are there in training mode alone.
"""

from peers import dfanet, eseg, frfnet, sfnet

FAMILIES = (eseg, sfnet, dfanet, frfnet)


def names():
    return [name for family in FAMILIES for name in family.VARIANTS]


def create(name, num_classes):
    for family in FAMILIES:
        if name in family.VARIANTS:
            return family.VARIANTS[name](num_classes)
    raise ValueError(f"There is no peer of {name}; there are {', '.join(names())}.")
