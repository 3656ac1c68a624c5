"""Who may import whom, read from the sources without running them."""

import ast
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# From the top down: a room imports itself and the rows below its own.
ROWS = [
    {"main", "planning"},
    {"train", "evaluate", "pseudo_label", "inference", "speed"},
    {"init_from", "export"},
    {"steps", "checkpoint", "reporting", "input", "sharding"},
    {
        "state",
        "optimizer",
        "losses",
        "metrics",
        "models",
        "protocols",
        "cityscapes",
        "tpu",
    },
    {"ops", "rng", "trees", "config", "job", "hlo"},
]
# Rooms of several files at the top of the package.
SAME_ROOM = {"report": "reporting", "pseudo_output": "pseudo_label"}
# The loop evaluates; a row may not import itself otherwise.
ALSO = {
    ("train", "evaluate"),
    ("inference", "evaluate"),
    ("pseudo_label", "inference"),
}
# Narrower than its row: no model, no state, nothing that needs flax or optax.
INPUT_MAY_IMPORT = {"input", "rng", "config"}

# Where a name may occur: every other file of the package is refused.
OWNERS = {
    "tensorflow": ("eseg_jax/input/",),
    # Where processes meet at the coordinator: JAX has no public name for that.
    "orbax": ("eseg_jax/checkpoint.py", "eseg_jax/job.py"),
    "flax.linen": ("eseg_jax/models/",),
    # An operation with a loop in it brings its own sharded wrapper; kernels are whole.
    "PartitionSpec": (
        "eseg_jax/sharding.py",
        "eseg_jax/ops/kernels.py",
        "eseg_jax/ops/warp.py",
    ),
}
NOT_IN_INPUT = {"flax", "optax", "orbax"}
OPS_MAY_IMPORT = {"jax", "numpy"} | sys.stdlib_module_names
CONFIGS_MAY_IMPORT = {"ml_collections", "configs", "__future__"}


def names_used(source: str, package: str) -> set[str]:
    """Dotted names of all imports and attribute accesses in a file.

    `from a import b` is "a.b", whether b is a module or not; a relative import is
    resolved against `package`; an alias counts as what it stands for.
    """
    used, aliases = set(), {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                used.add(item.name)
                if item.asname:
                    aliases[item.asname] = item.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                kept = parents[: len(parents) - node.level + 1]
                base = ".".join([*kept, base]).strip(".")
            for item in node.names:
                used.add(f"{base}.{item.name}")
                aliases[item.asname or item.name] = f"{base}.{item.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            *parents, first = attribute_parts(node)
            if first is not None:
                first = aliases.get(first, first)
                used.add(".".join([first, *reversed(parents)]))
    return used


def attribute_parts(node: ast.expr) -> list[str | None]:
    """["c", "b", "a"] of a.b.c; ends in None where a is no name."""
    if isinstance(node, ast.Attribute):
        return [node.attr, *attribute_parts(node.value)]
    return [node.id if isinstance(node, ast.Name) else None]


def imports(source: str, package: str) -> set[str]:
    """Dotted names of the imports alone."""
    tree = ast.parse(source)
    keep = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    return names_used(ast.unparse(ast.Module(keep, [])), package)


def files(folder: str) -> dict[str, tuple[str, str]]:
    """{path from the root: (source, package)} of the python files below a folder."""
    found = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        path = file.relative_to(ROOT)
        found[path.as_posix()] = (file.read_text(), ".".join(path.parts[:-1]))
    return found


PACKAGE = files("eseg_jax")


def room(module: str) -> str | None:
    """The room of a dotted module of the package; None for the package itself."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else None
    return SAME_ROOM.get(name, name)


def room_of_file(path: str) -> str | None:
    name = path.removeprefix("eseg_jax/").split("/")[0].removesuffix(".py")
    return None if name == "__init__" else SAME_ROOM.get(name, name)


def row(name: str) -> int:
    return next(i for i, rooms in enumerate(ROWS) if name in rooms)


def may_import(importer: str, imported: str) -> bool:
    if imported == importer or importer == "tools":
        return True
    if imported == "tools":
        return False
    if importer == "input":
        return imported in INPUT_MAY_IMPORT
    return (importer, imported) in ALSO or row(importer) < row(imported)


def has(names: set[str], prefix: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for name in names)


# ---------------------------------------------------------------- the reader itself


def test_reader_sees_every_form():
    source = textwrap.dedent(
        """
        import numpy as np
        from jax import sharding as s
        from . import layers
        from ..ops.resize import resize_bilinear
        def f():
            import tensorflow.io
            return s.PartitionSpec(np.float32)
        """
    )
    assert names_used(source, "eseg_jax.models") == {
        "numpy",
        "jax.sharding",
        "eseg_jax.models.layers",
        "eseg_jax.ops.resize.resize_bilinear",
        "tensorflow.io",
        "jax.sharding.PartitionSpec",
        "numpy.float32",
    }


def test_direction_rule():
    assert may_import("train", "losses")
    assert may_import("train", "evaluate")
    assert not may_import("evaluate", "train")
    assert not may_import("losses", "steps")
    assert not may_import("losses", "metrics")
    assert not may_import("input", "models")
    assert may_import("tools", "main")
    assert not may_import("main", "tools")


# ---------------------------------------------------------------- the package


def test_every_file_has_a_room():
    rooms = {room_of_file(path) for path in PACKAGE} - {None, "tools"}
    assert {"losses", "models", "ops"} <= rooms
    assert rooms <= set().union(*ROWS), "give the new file a place in ROWS"


@pytest.mark.parametrize("path", PACKAGE)
def test_imports_point_downwards(path):
    importer = room_of_file(path)
    imported = {
        room(name) for name in imports(*PACKAGE[path]) if has({name}, "eseg_jax")
    } - {None, "__version__"}
    if importer is None:  # within its function load
        assert imported <= {"inference"}, "eseg_jax/__init__.py imports no other"
    else:
        wrong = sorted(x for x in imported if not may_import(importer, x))
        assert not wrong, f"{path} may not import {wrong}"


@pytest.mark.parametrize("name", OWNERS)
def test_name_stays_with_its_owner(name):
    users = [
        path for path, source in PACKAGE.items() if uses(names_used(*source), name)
    ]
    wrong = [path for path in users if not path.startswith(OWNERS[name])]
    assert not wrong, f"{name} belongs in {OWNERS[name]}"


def uses(names: set[str], name: str) -> bool:
    """Whether a module (lower case) or a last component (a class) is used."""
    if name[0].islower():
        return has(names, name)
    return any(name in used.split(".") for used in names)


def test_no_private_jax_anywhere():
    sources = PACKAGE | files("configs") | files("tests") | files("data")
    private = "jax." + "_src"
    wrong = [
        path for path, source in sources.items() if has(names_used(*source), private)
    ]
    assert not wrong


def test_input_knows_no_network_library():
    wrong = {
        (path, name)
        for path, source in PACKAGE.items()
        if path.startswith("eseg_jax/input/")
        for name in NOT_IN_INPUT
        if has(imports(*source), name)
    }
    assert not wrong


def test_ops_import_jax_only():
    wrong = {
        (path, name)
        for path, source in PACKAGE.items()
        if path.startswith("eseg_jax/ops/")
        for name in imports(*source)
        if name.split(".")[0] not in OPS_MAY_IMPORT and not has({name}, "eseg_jax.ops")
    }
    assert not wrong


def test_configs_import_ml_collections_and_each_other_only():
    configs = files("configs")
    assert configs
    wrong = {
        (path, name)
        for path, source in configs.items()
        for name in imports(*source)
        if name.split(".")[0] not in CONFIGS_MAY_IMPORT
    }
    assert not wrong


# ---------------------------------------------------------------- at run time


def run(command: str) -> str:
    """Runs python where starting any jax backend fails."""
    done = subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, "JAX_PLATFORMS": "nowhere"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_package_imports_at_once_and_without_a_device():
    seconds = run(
        "import time, jax; start = time.perf_counter();"
        "import eseg_jax; print(time.perf_counter() - start)"
    )
    assert float(seconds) < 1


def test_modules_import_without_a_device_or_tensorflow():
    modules = [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in PACKAGE
        if room_of_file(path) != "tools" and "/input/" not in path
    ]
    modules.append("eseg_jax.input.datasets")
    out = run(
        f"import importlib, sys\n"
        f"for module in {modules}: importlib.import_module(module)\n"
        f"print('tensorflow' in sys.modules)\n"
        f"import jax\n"
        f"try: jax.devices()\n"
        f"except RuntimeError: print('no device')\n"
    )
    assert out.split("\n")[:2] == ["False", "no device"]
