"""Which files make up a split: the layouts, and what is missing from them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from etils import epath

from eseg_jax.input.datasets.problems import first_few
from eseg_jax.input.datasets.types import (
    DatasetInfo,
    Example,
    IdLists,
    InputError,
    LayoutError,
    PairLists,
    Split,
)


def parts_of(info: DatasetInfo, split: str) -> tuple[str, ...]:
    """The parts that make up `split`; InputError lists the splits when unknown."""
    if split not in info.splits:
        raise InputError(
            f"Dataset {info.name} has no split {split!r}; choose one of "
            f"{', '.join(info.splits)}."
        )
    return info.splits[split]


def find_root(info: DatasetInfo, configured: str) -> tuple[epath.Path, str]:
    """The dataset's folder and, in words, where that choice came from.

    config.dataset.root wins over the dataset's environment variable, which wins over
    ./datasets/<name>, the name in the variable's.
    """
    from_variable = os.environ.get(info.root_variable, "")
    if configured:
        return epath.Path(configured).expanduser(), "config.dataset.root"
    if from_variable:
        return (
            epath.Path(from_variable).expanduser(),
            f"the environment variable {info.root_variable}",
        )
    return (
        epath.Path("datasets") / info.root_variable.removesuffix("_DATASET").lower(),
        f"the default, as config.dataset.root and {info.root_variable} are not set",
    )


def open_root(info: DatasetInfo, configured: str) -> tuple[epath.Path, str]:
    """Like `find_root`; InputError says how to get the data when it is no folder."""
    root, source = find_root(info, configured)
    if not root.is_dir():
        place = str(root) if "://" in str(root) else os.path.abspath(root)
        raise InputError(
            f"Dataset {info.name} not found: {place} is not a folder (looked there "
            f"because of {source}); to prepare it, {info.where_to_get}, then set "
            f"--config.dataset.root=FOLDER or {info.root_variable}; to try the "
            "built-in scenes instead, use --config=configs/eseg_lite_s.py:scenes."
        )
    return root, source


def find_records(info: DatasetInfo, configured: str) -> epath.Path:
    """The folder of the TFDS records: the newest version below the data_dir.

    The data_dir is config.dataset.root, or what TFDS would take: $TFDS_DATA_DIR or
    ~/tensorflow_datasets.

    Raises:
      InputError: there is none; the message has the command that makes it.
    """
    if info.records is None:
        raise InputError(
            f"Dataset {info.name} has no TFDS builder; set config.dataset.source to "
            "'files'."
        )
    from_variable = os.environ.get("TFDS_DATA_DIR", "")
    data_dir = configured or from_variable or "~/tensorflow_datasets"
    source = "config.dataset.root" if configured else "TFDS_DATA_DIR"
    if not (configured or from_variable):
        source = "TFDS' default"
    place = epath.Path(data_dir).expanduser() / info.records.folder
    versions = {
        tuple(map(int, path.name.split("."))): path
        for path in (place.iterdir() if place.is_dir() else ())
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name)
    }
    if not versions:
        raise InputError(
            f"Dataset {info.name} is not prepared: {place} holds no version of it "
            f"(looked there because of {source}); run `{info.records.command}` as "
            "data/README.md says, and set --config.dataset.root=DATA_DIR."
        )
    return versions[max(versions)]


def list_split(info: DatasetInfo, split: str, configured_root: str = "") -> Split:
    """The examples of a split, sorted by id.

    Raises:
      InputError: the root does not exist, the layout is another one, the split is
        empty, or an image has no label or a listed label no image.
    """
    found = scan_split(info, split, configured_root)
    root, source = find_root(info, configured_root)
    where = f"of {info.name} split {split!r} in {root} ({source})"
    if found.missing_labels:
        total = len(found.missing_labels) + len(found.examples)
        raise InputError(
            f"{len(found.missing_labels)} of {total} images {where} have no label "
            f"file: {first_few(found.missing_labels)}; complete the download or "
            f"remove those images."
        )
    # A pattern finds labels whose images were left out on purpose; a list promises.
    if found.missing_images and isinstance(info.layout, PairLists | IdLists):
        total = len(found.missing_images) + len(found.examples)
        raise InputError(
            f"{len(found.missing_images)} of {total} listed images {where} do not "
            f"exist: {first_few(found.missing_images)}; complete the download or "
            f"remove those lines."
        )
    return found


def scan_split(info: DatasetInfo, split: str, configured_root: str = "") -> Split:
    """Like `list_split`, but missing files are reported in the result, not raised."""
    parts = parts_of(info, split)
    root, source = open_root(info, configured_root)
    scan = _scan_pairs if isinstance(info.layout, PairLists) else _scan_patterns
    found = [scan(info, root, source, part) for part in parts]
    kinds = {part.kind.name: part.kind for part in found}
    if len(kinds) > 1:
        raise InputError(
            f"Split {split!r} of {info.name} in {root} mixes {' and '.join(kinds)}; "
            f"bring {' and '.join(parts)} to one kind of label file."
        )
    examples = [example for part in found for example in part.examples]
    return Split(
        examples=tuple(sorted(examples, key=lambda e: (e.id, e.image))),
        kind=found[0].kind,
        missing_labels=tuple(p for part in found for p in part.missing_labels),
        missing_images=tuple(p for part in found for p in part.missing_images),
    )


def list_images(
    info: DatasetInfo, split: str, configured_root: str = ""
) -> tuple[Example, ...]:
    """The images of a split, sorted by id, whether they have labels or not.

    For splits to predict, such as the Cityscapes "test" and "train_extra".
    """
    root, source = open_root(info, configured_root)
    examples = []
    for part in parts_of(info, split):
        if isinstance(info.layout, PairLists):
            found = _scan_pairs(info, root, source, part).examples
            examples += [Example(e.id, e.image, "") for e in found]
        else:
            images = _images(info, root, source, part)
            examples += [Example(_id(k), str(p), "") for k, p in images.items()]
    return tuple(sorted(examples, key=lambda e: (e.id, e.image)))


# ----------------------------------------------------------------------------- layouts

# What the {names} of a pattern stand for, as sorted (name, text) pairs.
_Key = tuple[tuple[str, str], ...]


def _scan_patterns(
    info: DatasetInfo, root: epath.Path, source: str, part: str
) -> Split:
    images = _images(info, root, source, part)
    belongs = _belongs(info, root, source, part)
    labels = {
        kind.name: {
            key: path
            for key, path in _match(root, kind.path, part).items()
            if belongs(key)
        }
        for kind in info.labels
    }
    # The kind of label the split has most of; the first row wins a tie.
    kind = max(info.labels, key=lambda kind: len(labels[kind.name]))
    labels = labels[kind.name]
    expected = labels.keys()
    if isinstance(info.layout, IdLists):
        expected = {(("id", name),) for name in _read_ids(info, root, source, part)}
    return Split(
        examples=tuple(
            Example(_id(key), str(images[key]), str(labels[key]))
            for key in sorted(images.keys() & labels.keys())
        ),
        kind=kind,
        missing_labels=tuple(
            str(root / kind.path.format(split=part, **dict(key)))
            for key in sorted(images.keys() - labels.keys())
        ),
        missing_images=tuple(
            str(root / info.layout.image.format(split=part, **dict(key)))
            for key in sorted(expected - images.keys())
        ),
    )


def _belongs(
    info: DatasetInfo, root: epath.Path, source: str, part: str
) -> Callable[[_Key], bool]:
    """The rule that says whether a file is of this part, beyond its pattern."""
    layout = info.layout
    if isinstance(layout, IdLists):
        ids = _read_ids(info, root, source, part)
        return lambda key: _id(key) in ids
    if layout.part_of:
        return lambda key: layout.part_of(_id(key)) == part
    return lambda key: True


def _images(
    info: DatasetInfo, root: epath.Path, source: str, part: str
) -> dict[_Key, epath.Path]:
    belongs = _belongs(info, root, source, part)
    found = _match(root, info.layout.image, part)
    images = {key: path for key, path in found.items() if belongs(key)}
    if not images:
        pattern = _fill(info.layout.image, part, "*")
        raise _wrong_layout(info, root, source, part, pattern)
    return images


def _read_ids(info: DatasetInfo, root: epath.Path, source: str, part: str) -> set[str]:
    list_file = root / info.layout.file.format(split=part)
    if not list_file.exists():
        file = info.layout.file.format(split=part)
        raise _wrong_layout(info, root, source, part, file)
    return {line.strip() for line in list_file.read_text().splitlines()} - {""}


def _id(key: _Key) -> str:
    return dict(key)["id"]


def _match(root: epath.Path, template: str, part: str) -> dict[_Key, epath.Path]:
    """Files below root that fit the template, by what its {names} stand for."""
    # re.escape also escapes the braces of {city} and {id}, and the star.
    pattern = re.sub(
        r"\\{(\w+)\\}",
        lambda m: re.escape(part) if m[1] == "split" else f"(?P<{m[1]}>[^/]+)",
        re.escape(template).replace(r"\*", "[^/]*"),
    )
    found = {}
    for path in sorted(root.glob(_fill(template, part, "*"))):
        match = re.fullmatch(pattern, path.relative_to(root).as_posix())
        if not match:
            continue
        key = tuple(sorted(match.groupdict().items()))
        if key in found:
            raise InputError(
                f"{found[key]} and {path} are two files of one example, "
                f"{_id(key)!r}; remove or rename one."
            )
        found[key] = path
    return found


def _fill(template: str, part: str, rest: str) -> str:
    """The template with {split} and with every other {name} replaced."""
    return re.sub(r"{\w+}", rest, template.replace("{split}", part))


def _scan_pairs(info: DatasetInfo, root: epath.Path, source: str, part: str) -> Split:
    layout = info.layout
    list_file = root / layout.file.format(split=part)
    if not list_file.exists():
        raise _wrong_layout(info, root, source, part, list_file.name)
    pairs = {}
    for number, line in enumerate(list_file.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) != 2:
            raise InputError(
                f"Line {number} of {list_file} is not an 'image label' pair: {line!r}."
            )
        image, label = ("/".join(p.split("/")[-layout.keep :]) for p in fields)
        if image in pairs:
            raise InputError(
                f"Line {number} of {list_file} lists {image} a second time; remove it."
            )
        pairs[image] = label
    if not pairs:
        raise InputError(f"The list {list_file} is empty; {info.where_to_get}.")

    # One listing a folder instead of one question a file: buckets answer slowly.
    folders = {p.rpartition("/")[0] for pair in pairs.items() for p in pair}
    existing = {
        f"{folder}/{path.name}" if folder else path.name
        for folder in folders
        if (root / folder).is_dir()
        for path in (root / folder).iterdir()
    }
    examples, missing_labels, missing_images = [], [], []
    for image, label in pairs.items():
        stem = os.path.splitext(image)[0]
        names = [image, *(stem + suffix for suffix in layout.image_suffixes)]
        actual = next((name for name in names if name in existing), None)
        if actual is None:
            missing_images.append(str(root / image))
        elif label not in existing:
            missing_labels.append(str(root / label))
        else:
            examples.append(
                Example(os.path.basename(stem), str(root / actual), str(root / label))
            )
    return Split(
        examples=tuple(examples),
        kind=info.labels[0],
        missing_labels=tuple(sorted(missing_labels)),
        missing_images=tuple(sorted(missing_images)),
    )


def _wrong_layout(
    info: DatasetInfo, root: epath.Path, source: str, part: str, pattern: str
) -> LayoutError:
    present = sorted(path.name for path in root.iterdir())
    first = pattern.split("/")[0]
    nested = sorted(root.glob(f"*/{first}")) or sorted(root.glob(f"*/*/{first}"))
    hint = f"it looks like the root is {nested[0].parent}" if nested else ""
    return LayoutError(
        f"{info.name} split {part!r} not found in {root} ({source}): expected "
        f"{pattern} there, found {first_few(present) if present else 'nothing'}; "
        f"{hint or 'to prepare it, ' + info.where_to_get}."
    )
