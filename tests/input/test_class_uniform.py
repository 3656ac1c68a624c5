import dataclasses
import itertools

import numpy as np
import pytest

from eseg_jax import input as eseg_input
from eseg_jax.input import InputError, class_uniform, datasets, pipeline
from eseg_jax.tools import class_centroids

_IDS = tuple(f"train_{i}" for i in range(5))
_LABEL = np.array(
    [
        [0, 0, 1, 255, 9],
        [0, 0, 1, 1, 9],
        [2, 255, 255, 255, 9],
        [2, 2, 255, 255, 9],
        [9, 9, 9, 9, 9],
    ],
    np.uint8,
)


def test_centres_of_mass_in_whole_tiles():
    # Column 4 and row 4 are left over. Class 1 lies in rows 0, 1, 1, columns 2, 2, 3.
    assert class_uniform.find(_LABEL, 19, tile=2) == [(0, 0, 0), (1, 0, 2), (2, 2, 0)]
    # Smaller than a tile: one tile. Class 0 has its mean at (0.5, 0.5).
    assert class_uniform.find(_LABEL, 3, tile=99) == [(0, 0, 0), (1, 0, 2), (2, 2, 0)]


def _table():
    """Of 12 examples: class 0 in 9 of them, class 2 in examples 3 and 7 only."""
    example = np.array([*range(9), 3, 7])
    return class_uniform.Centroids(
        ids=tuple(f"e{i}" for i in range(12)),
        example=example,
        class_id=np.array([0] * 9 + [2] * 2),
        place=np.stack([example, 10 * example], axis=1).astype(np.int32),
    )


def test_an_epoch_has_each_class_equally_often_and_as_many_crops():
    # int(12 * 0.75 / 3) = 3 crops for each of 3 classes; class 1 has no centre.
    table = _table()
    seen = []
    for number in range(20):
        examples, places = class_uniform.epoch(table, 3, 0.75, seed=0, number=number)
        assert examples.shape == (12,) and places.shape == (12, 2)
        around = places[:, 0] >= 0
        np.testing.assert_array_equal(places[around, 0], examples[around])
        np.testing.assert_array_equal(places[around, 1], 10 * examples[around])
        assert (places[~around] == class_uniform.NOWHERE).all()
        assert around.sum() == 6 and len(set(examples[~around])) == 6
        # Three crops of class 2 need one of its two examples twice.
        assert np.isin(examples[around], [3, 7]).sum() >= 3
        seen.append((tuple(examples), tuple(np.flatnonzero(around))))
    assert len(set(seen)) == 20


def test_an_epoch_is_a_function_of_seed_and_number():
    def draw(seed, number):
        return class_uniform.epoch(_table(), 3, 0.75, seed, number)[0].tobytes()

    assert draw(-1, 4) == draw(-1, 4)
    assert len({draw(0, 0), draw(0, 1), draw(1, 0), draw(1, 1)}) == 4


@pytest.fixture
def configured(make_config, camvid, tmp_path):
    """All crops around classes, which are 10x10 squares in images of 20x30."""
    config = make_config("camvid", camvid, crop=(12, 12), scale=(1.0, 1.0), flip=False)
    config.input.update(class_uniform=1.0, centroids=str(tmp_path / "centroids.npz"))
    ids, labels = eseg_input.labels(config, "train")
    table = class_centroids.build(ids, labels, 11, tile=10)
    assert len(table.example) == 5 * 6
    table.save(config.input.centroids)
    return config


def test_too_few_examples_are_an_error(configured):
    with pytest.raises(InputError, match="less than one crop for each of 11 classes"):
        next(eseg_input.train_batches(configured))


def test_table_of_other_examples_is_an_error(configured):
    configured.dataset.train_split = "val"
    with pytest.raises(InputError, match="made of 5 examples, not of the 3"):
        next(eseg_input.train_batches(configured))
    configured.input.centroids = "nowhere.npz"
    with pytest.raises(InputError, match="'nowhere.npz' does not exist"):
        next(eseg_input.train_batches(configured))


def test_crops_contain_their_class_and_resume(configured, monkeypatch):
    # Were there but one class, with one centre, all crops would be drawn around it.
    table = class_uniform.load(configured.input.centroids, _IDS)
    only = {"ids": _IDS, "example": table.example[:1], "class_id": table.class_id[:1]}
    only = class_uniform.Centroids(**only, place=table.place[:1])
    only.save(configured.input.centroids)
    one_class = dataclasses.replace(
        datasets.DATASETS["camvid"], class_names=("the only one",)
    )
    monkeypatch.setattr(pipeline, "dataset_info", lambda config: one_class)
    configured.input.batch_size = 5
    batches = list(itertools.islice(eseg_input.train_batches(configured), 5))
    for batch in batches:
        assert set(batch["id"]) == {_IDS[only.example[0]]}
        assert (batch["label"] == only.class_id[0]).any(axis=(1, 2)).all()
    assert len({batch["label"].tobytes() for batch in batches}) == 5
    (resumed,) = itertools.islice(eseg_input.train_batches(configured, start_step=3), 1)
    np.testing.assert_array_equal(resumed["image"], batches[3]["image"])
