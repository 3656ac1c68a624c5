"""Every test here starts processes; none outlives its test."""

import os

import jobs
import pytest


@pytest.fixture(autouse=True)
def _no_process_left():
    yield
    jobs.end_all()


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Compiled programs of all tests; JAX_COMPILATION_CACHE_DIR keeps them for more."""
    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return kept or tmp_path_factory.mktemp("cache")
