"""Prepares a dataset as TFDS records.

  python data/build.py camvid --manual_dir=FOLDER --data_dir=DATA_DIR

Does what `tfds build data/camvid` does, for one of the builders beside this file or for
one of TFDS itself such as cityscapes, without the command's need for apache-beam. Ends
at once when the dataset is there already, unless --overwrite is given; started again
after it was killed, it begins anew.
"""

import argparse
import json
import pathlib
import sys

import tensorflow_datasets as tfds

from eseg_jax.input import InputError

_HERE = pathlib.Path(__file__).resolve().parent


def build(
    name: str, config: str, manual_dir: str, data_dir: str | None, overwrite=False
) -> None:
    """Prepares DATA_DIR/name; `config` is "", a name, or a JSON dict of its fields."""
    if (_HERE / name).is_dir():
        sys.path.insert(0, str(_HERE))
        builder_class = tfds.core.community.builder_cls_from_module(
            f"{name}.{name}_dataset_builder"
        )
    else:
        builder_class = tfds.builder_cls(name)
    if config.startswith("{"):
        config = builder_class.builder_config_cls(**json.loads(config))
    builder = builder_class(config=config or None, data_dir=data_dir)
    if overwrite and builder.is_prepared():
        builder.data_path.rmtree()
        builder = builder_class(config=config or None, data_dir=data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )
    print(f"{builder.info.full_name} is in {builder.data_path}:")
    for split, info in builder.info.splits.items():
        print(f"  {split}: {info.num_examples} examples, {info.num_shards} shards")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="a folder here, or a dataset of TFDS")
    parser.add_argument("--config", default="", help="a name, or its fields as JSON")
    parser.add_argument("--manual_dir", required=True, help="where the files are")
    parser.add_argument("--data_dir", help="where the records go; TFDS' by default")
    parser.add_argument("--overwrite", action="store_true", help="prepare it anew")
    arguments = parser.parse_args()
    try:
        build(**vars(arguments))
    except InputError as error:
        sys.exit(f"PROBLEM: {error}")


if __name__ == "__main__":
    main()
