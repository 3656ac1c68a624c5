"""Small dataset trees in the official layouts, and configurations that read them."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image


def _config(name: str, root="", **inputs) -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "dataset": {
                "name": name,
                "root": str(root),
                "source": "files",
                "train_split": "train",
                "eval_split": "val",
                "size": (32, 64),
                "train_images": 6,
                "eval_images": 3,
            },
            "input": {
                "batch_size": 4,
                "crop": (16, 24),
                "scale": (0.5, 2.0),
                "flip": True,
                "brightness": 0.0,
                "contrast": 0.0,
                "saturation": 0.0,
                "hue": 0.0,
                "scale_step": 0.0,
                "blur": (0.0, 0.0),
                "class_uniform": 0.0,
                "centroids": "",
                "max_broken_files": 0,
                "cache_gb": 0.0,
            }
            | inputs,
            "eval": {"batch_size": 1},
        }
    )


@pytest.fixture(scope="session")
def make_config():
    """make_config(dataset, root, **fields of config.input) -> ConfigDict."""
    return _config


def _save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.fixture(scope="session")
def save():
    """save(path, uint8 array, **options): writes an image, making its folder."""
    return _save


@pytest.fixture
def camvid(tmp_path):
    """SegNet layout: 5 train, 3 val images of 20x30, listed under a foreign prefix.

    The label is a checkerboard of 10x10 squares of the ids 0..10, moved along by the
    example's number; every channel of the image is 20 times the id.
    """
    root = tmp_path / "camvid"
    for split, count in (("train", 5), ("val", 3)):
        lines = []
        for index in range(count):
            label = np.kron(
                (np.arange(6).reshape(2, 3) + index) % 11, np.ones((10, 10))
            ).astype(np.uint8)
            name = f"{split}_{index}"
            _save(root / split / f"{name}.png", np.stack([label * 20] * 3, axis=-1))
            _save(root / f"{split}annot" / f"{name}.png", label)
            lines.append(
                f"/Seg/CamVid/{split}/{name}.png /Seg/x/{split}annot/{name}.png"
            )
        (root / f"{split}.txt").write_text("\n".join(lines[::-1]) + "\n")
    return root


@pytest.fixture
def cityscapes(tmp_path):
    """Official layout, labelIds: 3 train images in 2 cities, 2 val images, 8x16.

    Image number k of a split has the label id k + 7 everywhere.
    """
    root = tmp_path / "cityscapes"
    cities = {
        "train": (
            "bochum_000000_000001",
            "aachen_000001_000019",
            "aachen_000000_000019",
        ),
        "val": ("lindau_000000_000019", "munster_000000_000019"),
    }
    for split, stems in cities.items():
        for index, stem in enumerate(stems):
            city = stem.split("_")[0]
            image = root / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png"
            _save(image, np.full((8, 16, 3), 50, np.uint8))
            label = root / f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png"
            _save(label, np.full((8, 16), index + 7, np.uint8))
    return root
