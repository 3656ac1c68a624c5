import json
import subprocess
import sys

import numpy as np
import pytest

from eseg_jax.tools import class_weights

# Two images; class 2 occurs nowhere. Labelled pixels: 8 and 4.
_LABELS = [
    np.array([[0, 0, 0, 0, 0, 0], [1, 1, 255, 255, 255, 255]], np.uint8),
    np.array([[1, 1, 1, 1, 255, 255]], np.uint8),
]


def test_formulas():
    pixels = class_weights.count(_LABELS, 3)
    np.testing.assert_array_equal(pixels, [[6, 2, 0], [0, 4, 0]])
    # Both classes are half of the 12 pixels.
    half, none = 1 / np.log(1.52), 1 / np.log(1.02)
    np.testing.assert_allclose(class_weights.enet(pixels), [half, half, none])
    # Class 0 is 6 of 8 pixels of its image, class 1 is 6 of 12; the median is 0.625.
    weights = class_weights.median_frequency(pixels)
    np.testing.assert_allclose(weights, [0.625 / 0.75, 0.625 / 0.5, 0])


@pytest.mark.slow
def test_command_prints_and_stores_camvids_weights(real_data, tmp_path):
    output = tmp_path / "weights.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "eseg_jax.tools.class_weights"),
            "--config=configs/eseg_lite_s.py:camvid",
            f"--config.dataset.root={real_data / 'camvid480'}",
            f"--output={output}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    stored = json.loads(output.read_text())
    assert stored["images"] == 367 and len(stored["pixels"]) == 11
    share = np.array(stored["pixels"]) / sum(stored["pixels"])
    np.testing.assert_allclose(stored["enet"], 1 / np.log(1.02 + share), rtol=1e-5)
    # Pole and bicyclist are rarest, building and road most frequent.
    assert set(np.argsort(share)[:3]) >= {10} and set(np.argsort(share)[-2:]) == {1, 3}
    assert done.stdout.count("--config.loss.class_weights='(") == 2
