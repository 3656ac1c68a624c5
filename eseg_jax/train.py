"""The training loop, top to bottom: build, resume, evaluate, save, step, log."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import time

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from eseg_jax import (
    checkpoint,
    evaluate,
    init_from,
    input,
    job,
    losses,
    models,
    optimizer,
    rng,
    sharding,
    state,
    steps,
    trees,
)
from eseg_jax.config import validate
from eseg_jax.report import finite, trace
from eseg_jax.reporting import Reporter

_logger = logging.getLogger(__name__)


def train(config: ConfigDict, workdir: str) -> state.TrainState:
    """Trains until `config.total_steps`, going on from the latest checkpoint if any.

    Writes config.json, metrics.jsonl, checkpoints, images and report.html under
    `workdir`, a local path or a bucket. A run that is killed and started again with
    the same command ends with the same parameters, statistics and metrics, bit for
    bit. On SIGTERM it saves and returns early.

    Raises:
      ValueError: the configuration, the data or a checkpoint is wrong; says how to
        mend it.
    """
    # ---- Data and devices ------------------------------------------------------
    validate(config)
    dataset = input.dataset_info(config)
    classifies = input.is_classification(config)  # pre-training of the backbone
    for part in (config.dataset.train_split, config.dataset.eval_split):
        input.num_examples(config, part)  # missing data stops here, not in an hour
    input.check_pseudo_labels(config)
    mesh = sharding.make_mesh(config.mesh)
    whole = sharding.replicated(mesh)
    micro_batch = config.input.batch_size // config.accumulate_steps
    sharding.check_batch_size(micro_batch, mesh, "config.input.batch_size")
    sharding.check_rows(config.input.crop[0], mesh, "config.input.crop")
    eval_mesh = sharding.for_batches(mesh, config.eval.batch_size)
    sharding.check_batch_size(
        config.eval.batch_size, eval_mesh, "config.eval.batch_size"
    )

    # ---- Model, optimiser, state -----------------------------------------------
    model = evaluate.create_model(config, dataset.num_classes)
    schedule = optimizer.make_schedule(config.optimizer, config.total_steps)
    tx = optimizer.make_optimizer(config.optimizer, config.total_steps)

    def init(initial=None):
        key = rng.stream(config.seed, "init", 0)
        return state.init_state(model, tx, key, initial)

    shapes = jax.eval_shape(init)
    places = sharding.by_rules(shapes, mesh, config.sharding_rules)
    manager = checkpoint.open_manager(workdir, config.keep_checkpoints)

    # ---- Resume or start -------------------------------------------------------
    # `evaluated` is the last step whose metrics are in metrics.jsonl.
    restored = checkpoint.restore(manager, shapes, places, set_aside=True)
    if restored is None:
        initial = {}
        if config.init_from:
            initial = init_from.load_initial(
                config.init_from, config.init_part, shapes.variables("raw")
            )
        train_state = jax.jit(init, out_shardings=places)(initial)
        step, evaluated, position, skipped = 0, 0, 0, 0
    else:
        train_state, meta = restored
        step, evaluated = int(train_state.step), meta["evaluated"]
        position, skipped = meta["metrics_position"], meta.get("skipped", 0)
        _logger.info("Resuming %s at step %d.", workdir, step)
    reporter = Reporter(
        workdir,
        config=config.to_dict(),
        class_names=dataset.class_names,
        colours=dataset.colours,
        total_steps=config.total_steps,
        batch_size=config.input.batch_size,
        num_chips=mesh.size,
        active=jax.process_index() == 0,
        header=_provenance(shapes, mesh) | _batch_facts(config, mesh),
    )
    reporter.resume(step, position)

    # ---- Compile ---------------------------------------------------------------
    with reporter.section("compile"):
        train_step = lower_train_step(config, model, tx, shapes, mesh).compile()
        job.wait_for_processes("train step compiled")
    eval_step = evaluate.jit_eval_step(config, model, dataset.num_classes, eval_mesh)
    views_step = evaluate.jit_views_step(config, model)

    # ---- Loop ------------------------------------------------------------------
    batches = input.train_batches(
        config,
        start_step=step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    start, total, scalars = step, config.total_steps, {}
    preempted = checkpoint.preemption_watch()
    profile = trace.Trace(config.profile, workdir)
    guard = finite.FiniteGuard(config.skip_nonfinite, skipped)
    try:
        while True:
            stop = preempted(step)
            profile.at(step, scalars)
            score = None

            # ---- Evaluate ----
            due = step % config.eval_every == 0 or step == total
            if due and step > evaluated and not stop:
                guard.check()
                with reporter.section("evaluation"):
                    variables = train_state.variables(config.eval.weights)
                    variables = jax.device_put(variables, whole)  # what rules split
                    found = evaluate.evaluate_split(
                        eval_step, variables, config, eval_mesh
                    )
                    shown = evaluate.with_views(views_step, variables, found.samples)
                summary = found.summary(dataset.class_names)
                score, evaluated = summary["top1" if classifies else "miou"], step
                summary["weights"] = config.eval.weights
                summary["protocol"] = evaluate.protocol_text(config)
                split_name = config.dataset.eval_split
                reporter.log_eval(
                    step, split_name, summary, found.confusion, found.scores
                )
                reporter.log_images(step, shown)
                reporter.log_worst(step, found.worst)

            # ---- Save ----
            last = step == total or stop
            wait = last or checkpoint.lost(manager)  # then it is tried again, at once
            if (step % config.checkpoint_every == 0 or wait) and step > start:
                guard.check()  # before what it refuses is kept
                with reporter.section("checkpoint"):
                    meta = {
                        "evaluated": evaluated,
                        "metrics_position": reporter.position,
                        "skipped": guard.skipped,
                        "config": config.to_json_best_effort(),
                        "classes": {
                            "names": list(dataset.class_names),
                            "colours": dataset.colours.tolist(),
                        },
                    }
                    checkpoint.save(manager, step, train_state, meta, score, wait=wait)
            if last:
                break

            # ---- Next batch ----
            with reporter.section("input"):
                batch = next(batches)
                arrays = {name: batch[name] for name in ("image", "label")}
                arrays = sharding.put_batch(arrays, mesh)

            # ---- Step ----
            name = jax.profiler.StepTraceAnnotation("train", step_num=step)
            with reporter.section("step"), name:
                train_state, scalars = train_step(train_state, arrays)
                # Waits for the step before: one in flight keeps the device busy; a
                # longer queue would hold its batches in memory and fool the clock.
                guard.check()
            step += 1
            guard.follow(step, scalars, batch["id"])

            # ---- Log ----
            if step % config.log_every == 0 or step == total:
                with reporter.section("step"):
                    guard.check()  # the device is behind: this waits for it
                values = {k: float(x) for k, x in scalars.items() if k != "nonfinite"}
                if config.skip_nonfinite:
                    values["skipped"] = guard.skipped
                values["learning_rate"] = float(schedule(step - 1))
                reporter.log_train(step, values)
            reporter.progress(step)
    finally:
        with reporter.section("checkpoint"):
            checkpoint.close(manager)
        reporter.watchdog.close()

    # ---- Leave -----------------------------------------------------------------
    reporter.finish(step)
    if stop:
        _logger.info("Preempted: saved step %d; the same command resumes.", step)
    return train_state


def lower_train_step(
    config: ConfigDict,
    model,
    tx: optax.GradientTransformation,
    shapes: state.TrainState,
    mesh: Mesh,
) -> jax.stages.Lowered:
    """The configuration's train step for the devices of a mesh, ready to compile.

    (state, {"image", "label"}) -> (state, scalars). The state given to it is used up.
    """
    classifies = input.is_classification(config)
    info = models.info(config.model.name)
    ohem = {
        "threshold": config.loss.ohem_threshold,
        "min_kept_fraction": config.loss.ohem_min_kept_fraction,
        "rule": config.loss.ohem_rule,
    }

    def loss(outputs, labels):
        if classifies:
            return losses.classification_loss(outputs, labels)
        return losses.segmentation_loss(
            outputs,
            labels,
            ohem=ohem if config.loss.ohem_threshold > 0 else None,
            class_weights=config.loss.class_weights,
            aux_weights=dict.fromkeys(outputs["aux"], config.loss.aux_weight),
            resize=models.enlarge(model),
        )

    train_step = steps.make_train_step(
        model,
        tx,
        loss,
        mean=info.mean,
        std=info.std,
        seed=config.seed,
        ema_decay=config.ema_decay,
        accumulate_steps=config.accumulate_steps,
        skip_nonfinite=config.skip_nonfinite > 0,
    )
    whole = sharding.replicated(mesh)
    places = sharding.by_rules(shapes, mesh, config.sharding_rules)
    image = (config.input.batch_size, *config.input.crop, 3)
    label = (image[:1], np.int32) if classifies else (image[:3], np.uint8)
    batch = {
        "image": jax.ShapeDtypeStruct(image, np.uint8),
        "label": jax.ShapeDtypeStruct(*label),
    }
    # An operation that XLA cannot split by itself learns the mesh from the context.
    with jax.set_mesh(mesh):
        return jax.jit(
            train_step,
            in_shardings=(places, sharding.of_batch(batch, mesh)),
            out_shardings=(places, whole),
            donate_argnums=0,
        ).lower(shapes, batch)


def _batch_facts(config: ConfigDict, mesh: Mesh) -> dict[str, str]:
    """Batch size and learning rate, of all chips and of one."""
    images, rate = config.input.batch_size, config.optimizer.learning_rate
    micro, chips = config.accumulate_steps, mesh.size
    facts = {
        "mesh": " x ".join(f"{name} {size}" for name, size in mesh.shape.items()),
        "batch": f"{images} images a step, {images / micro / chips:g} at a time on "
        f"each of {chips} chips" + (f", {micro} times" if micro > 1 else ""),
        "learning_rate": f"{rate:g} for the whole batch: the gradient is its mean, "
        f"whatever the chips; {rate / images:.3g} an image, {rate / chips:.3g} a chip",
    }
    _logger.info("%s; learning rate %s.", facts["batch"], facts["learning_rate"])
    return facts


def _provenance(shapes: state.TrainState, mesh) -> dict:
    """What config.json records beside the configuration."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "processes": jax.process_count(),
        "parameters": trees.count_parameters(shapes.params),
        "parameter_table": "\n".join(
            f"{name} {tuple(leaf.shape)}"
            for name, leaf in trees.flatten_names(shapes.params).items()
        ),
    }
