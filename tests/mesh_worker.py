"""Five steps of a network on a mesh, alone or as one of several processes.

    python tests/mesh_worker.py OUT.npz '{"name": "dfanet_b", "size": [64, 64], …}'

calls `run` in float64, and the first process writes what it returns. In float32 the
order of a sum decides which of two pixels max pooling takes, and over a few steps
rounding grows as large as an error. OHEM, whose selection is float32 by its bits, is
left out of it; tests/test_losses.py has that on a mesh.
"""

import collections as counting
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

if __name__ == "__main__":  # before the modules that have it as a default
    jax.config.update("jax_enable_x64", True)
    jnp.float32 = jnp.float64

import tiny

from eseg_jax import job, losses, models, optimizer, rng, sharding, state, steps
from eseg_jax.trees import flatten_names


def data(step, batch, size):
    """A batch of patches of colour, a class each; an image in four has no label."""
    draw = np.random.default_rng([step, *size])
    label = draw.integers(0, 6, (batch, 5, 5))
    label = label.repeat(-(-size[0] // 5), 1).repeat(-(-size[1] // 5), 2)
    label = label[:, : size[0], : size[1]].astype(np.uint8)
    image = draw.integers(0, 256, (6, 3))[label] // 2
    image = image + draw.integers(0, 128, (*label.shape, 3))
    label[label == 5] = 255
    label[::4] = 255
    return {"image": image.astype(np.uint8), "label": label}


def compile_step(model, batch, mesh, rules=(), slow=1.0):
    """The initialiser of a train state and the compiled train step."""
    config = tiny.get_config()
    # As slow a start as a real run's: large steps turn rounding into another run.
    config.optimizer.warmup_steps, config.total_steps = 1000, 10_000
    config.optimizer.learning_rate *= slow
    tx = optimizer.make_optimizer(config.optimizer, config.total_steps)

    def init():
        return state.init_state(model, tx, rng.stream(0, "init", 0))

    ohem = {"threshold": 0.9, "min_kept_fraction": 0.125}
    ohem = None if jax.config.jax_enable_x64 else ohem

    def loss(outputs, labels):
        return losses.segmentation_loss(
            outputs,
            labels,
            ohem=ohem,
            aux_weights=dict.fromkeys(outputs["aux"], 0.4),
            resize=models.enlarge(model),
        )

    step = steps.make_train_step(
        model, tx, loss, mean=(120.0,) * 3, std=(60.0,) * 3, seed=0, ema_decay=0.99
    )
    shapes, batch = jax.eval_shape(init), jax.eval_shape(lambda: batch)
    whole = sharding.replicated(mesh)
    places = sharding.by_rules(shapes, mesh, rules)
    step = jax.jit(
        step,
        in_shardings=(places, sharding.of_batch(batch, mesh)),
        out_shardings=(places, whole),
        donate_argnums=0,
    )
    with jax.set_mesh(mesh):
        compiled = step.lower(shapes, batch).compile()
    return jax.jit(init, out_shardings=places), compiled


def run(
    name,
    size,
    mesh,
    devices=None,
    options=None,
    rules=(),
    count=5,
    batch=4,
    slow=1.0,
):
    """Trains on the mesh of the first `devices`, or of all; `slow` scales the rate.

    Returns:
      The scalars of every step and the leaves of the state after the first and the
      last one, by name; and the HLO text of the step.
    """
    mesh = sharding.make_mesh(mesh, jax.devices()[:devices])
    model = models.create(name, 5, dtype=jnp.float32, **(options or {}))
    init, step = compile_step(model, data(0, batch, size), mesh, rules, slow)
    job.wait_for_processes("compiled")
    train_state, found = init(), {}
    local = batch // jax.process_count()
    mine = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
    for i in range(count):
        rows = {key: x[mine] for key, x in data(i, batch, size).items()}
        train_state, scalars = step(train_state, sharding.put_batch(rows, mesh))
        found |= {f"{i}/{key}": np.asarray(x) for key, x in scalars.items()}
        if i in (0, count - 1):
            at_once = jax.device_put(train_state, sharding.replicated(mesh))
            leaves = flatten_names(jax.device_get(at_once))
            found |= {f"{i}/state/{key}": np.array(x) for key, x in leaves.items()}
    return found, step.as_text()


def collectives(hlo):
    """How many there are of each kind, and the sizes of what is gathered."""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    counts = counting.Counter(re.findall(rf"\s({kinds})(?:-start)?\(", hlo))
    shapes = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", hlo)
    sizes = [int(np.prod([int(x) for x in shape.split(",")])) for shape in shapes]
    return counts, sorted(sizes)


if __name__ == "__main__":
    job.join("auto")
    found, hlo = run(**json.loads(sys.argv[2]))
    if jax.process_index() == 0:
        counts, gathered = collectives(hlo)
        np.savez(sys.argv[1], **found, collectives=json.dumps([counts, gathered]))
