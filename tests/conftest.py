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


@pytest.fixture(scope="session")
def mesh() -> jax.sharding.Mesh:
    """Four CPU devices along the axis "data"."""
    return jax.make_mesh(
        (4,),
        ("data",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices("cpu")[:4],
    )


@pytest.fixture
def tiny_config():
    """The configuration of tests/tiny.py; a test may change its fields."""
    import tiny

    return tiny.get_config()
