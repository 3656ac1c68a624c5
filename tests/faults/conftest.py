"""Every test here starts processes; none outlives its test."""

import jobs
import pytest


@pytest.fixture(autouse=True)
def _no_process_left():
    yield
    jobs.end_all()
