"""What every test runs under: four CPU devices, no silent rank promotion."""

import os
import pathlib

# Before jax starts. A value set outside wins, so that JAX_PLATFORMS=cuda,cpu runs
# the gpu tests.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Shapes are tiny, so compiling is what takes time: half of it goes this way.
jax.config.update("jax_disable_most_optimizations", True)

_ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """Folder with camvid480/ and cityscapes_mini/; skips the test without it."""
    path = pathlib.Path(
        os.environ.get("ESEG_JAX_TEST_DATA", _ROOT.parent / "shared" / "data")
    )
    if not path.is_dir():
        pytest.skip(f"no real images in {path}; ESEG_JAX_TEST_DATA names their folder")
    return path


@pytest.fixture(scope="session")
def fixtures() -> pathlib.Path:
    """Folder with sfnet/ and warp/; skips the test without it."""
    path = pathlib.Path(
        os.environ.get("ESEG_JAX_TEST_FIXTURES", _ROOT.parent / "shared" / "fixtures")
    )
    if not path.is_dir():
        pytest.skip(f"no fixtures in {path}; ESEG_JAX_TEST_FIXTURES names their folder")
    return path


@pytest.fixture(autouse=True)
def full_optimisation_for_tpu(request):
    """Compiles the programs of tpu_aot tests as a TPU would get them."""
    if "tpu_aot" not in request.keywords:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def as_on_an_accelerator(monkeypatch):
    """Operations take the form that is for neither a CPU nor a TPU."""

    def choose(*args, default, **platforms):
        return default(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", choose)
    jax.clear_caches()
    yield
    monkeypatch.undo()
    jax.clear_caches()


@pytest.fixture(scope="session")
def mesh() -> jax.sharding.Mesh:
    """Four CPU devices along the axis "data"."""
    return jax.make_mesh(
        (4,),
        ("data",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices("cpu")[:4],
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> str:
    """Compiled programs of real processes; JAX_COMPILATION_CACHE_DIR keeps them."""
    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return kept or str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tiny_config():
    """The configuration of tests/tiny.py; a test may change its fields."""
    import tiny

    return tiny.get_config()


@pytest.fixture(scope="session")
def saved_run(tmp_path_factory):
    """A run of no steps: its folder, its model, and the state that it saved."""
    import tiny

    from eseg_jax import checkpoint, evaluate, input, optimizer, state

    config = tiny.get_config()
    folder = tmp_path_factory.mktemp("run")
    dataset = input.dataset_info(config)
    model = evaluate.create_model(config, dataset.num_classes)
    tx = optimizer.make_optimizer(config.optimizer, config.total_steps)
    made = jax.jit(lambda: state.init_state(model, tx, jax.random.key(0)))()
    made = made.replace(
        ema_params=jax.tree.map(lambda x: x + 0.125, made.ema_params),
        ema_batch_stats=jax.tree.map(lambda x: x + 0.25, made.ema_batch_stats),
    )
    manager = checkpoint.open_manager(folder, 2)
    names, colours = list(dataset.class_names), dataset.colours.tolist()
    names[0] = "way"  # the checkpoint's own names count, not the dataset's
    meta = {
        "config": config.to_json_best_effort(),
        "classes": {"names": names, "colours": colours},
    }
    checkpoint.save(manager, 7, made, meta, None)
    manager.close()
    return folder, model, made
