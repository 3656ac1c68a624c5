"""What a process sets up before its work, and when it leaves the others."""

import subprocess
import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from eseg_jax import job


@pytest.fixture
def fresh_cache(monkeypatch):
    """No cache of compiled programs before the test, none after."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    options = {"jax_persistent_cache_min_compile_time_secs": 0.0}
    options["jax_compilation_cache_dir"] = None
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def _cache_events(function):
    """Compiles a function; returns what the cache of compiled programs said."""
    events = []

    def listen(event, **_):
        if event.startswith("/jax/compilation_cache/cache_"):
            events.append(event.rpartition("/")[2])

    jax.monitoring.register_event_listener(listen)
    jax.jit(function).lower(jax.ShapeDtypeStruct((3,), float)).compile()
    jax.monitoring.unregister_event_listener(listen)
    return events


def _double(x):
    return x * 2 + 1


def test_a_second_start_finds_the_program_compiled(fresh_cache, tmp_path):
    job.keep_compiled("auto", str(tmp_path))
    assert _cache_events(_double)[-1] == "cache_misses"
    assert list((tmp_path / "compilation_cache").iterdir())
    jax.clear_caches()  # what a new process would not know
    assert _cache_events(_double)[-1] == "cache_hits"


def test_where_programs_are_kept(fresh_cache, tmp_path, monkeypatch):
    job.keep_compiled(str(tmp_path / "shared"), str(tmp_path / "run"))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "shared")
    job.keep_compiled("auto", "gs://bucket/run")
    assert jax.config.jax_compilation_cache_dir == "gs://bucket/run/compilation_cache"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://all/of/us")
    job.keep_compiled("auto", "gs://bucket/run")
    assert jax.config.jax_compilation_cache_dir == "gs://all/of/us"
    job.keep_compiled("", str(tmp_path / "run"))
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize(
    "error, lost",
    [
        (ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset"), True),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: heartbeat timeout"), True),
        (ValueError("config.seed = -1: must not be negative"), False),
    ],
)
def test_errors_of_a_lost_process(monkeypatch, error, lost):
    assert not job.lost_another(error)  # this process is alone
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert job.lost_another(error) == lost


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written .*choose another --workd"):
        job.check_writable(str(tmp_path / "file" / "run"))


_FAULTS = """
import resource, sys
from eseg_jax import job

if sys.argv[1] == "keep":
    job.keep_memory()
size = 2**26  # smaller ones the C library learns to keep
for _ in range(4):
    b"x" * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about glibc")
def test_freed_memory_is_used_again():
    plain, kept = (
        int(subprocess.check_output([sys.executable, "-c", _FAULTS, how]))
        for how in ("plain", "keep")
    )
    # Three of the four arrays find their 16,384 pages in place.
    assert plain - kept > 2 * 16384
