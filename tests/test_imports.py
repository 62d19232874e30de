"""The house's storeys: imports run one way, optional packages are imported where they belong."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import gpucnn

PACKAGE = Path(gpucnn.__file__).parent
# Top to bottom. A module imports only from storeys below its own, or beside it in the same storey.
STOREYS = (
    ("__main__",),
    ("cli",),
    ("interop",),
    ("__init__",),
    ("ensemble", "many", "many_checks"),
    ("training", "training_checks", "course", "checkpoint", "plots", "progress", "gradcheck"),
    ("network", "models", "plans"),
    ("summary", "named_arrays", "network_checks"),
    ("layers", "losses", "optimizers", "schedules", "data"),
    ("functional",),
    ("devices",),
    ("backends.cpu", "backends.cuda"),
    ("backends.base", "backends.__init__"),
    ("program",),
    ("connections", "activations", "shapes", "errors", "files"),
)
OPTIONAL = {"cupy": ("backends.cuda",), "torch": ("interop",), "rich": ("progress", "cli"),
            "matplotlib": ("plots", "cli"), "PIL": ("data",), "pooch": ("data",),
            "click": ("cli", "__main__"), "threadpoolctl": ("backends.cpu", "cli")}


def modules():
    """(dotted name within the package, syntax tree) of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


MODULES = list(modules())


def storey(name):
    for number, parts in enumerate(STOREYS):
        if any(name == part or name.startswith(f"{part}.") for part in parts):
            return number
    raise AssertionError(f"module {name} has no storey")


def imports_of(tree):
    """The dotted names of all modules that a syntax tree imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "gpucnn":
                yield from (f"gpucnn.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize(("name", "tree"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_run_downwards(name, tree):
    for imported in imports_of(tree):
        target = imported.removeprefix("gpucnn.")
        if imported == "gpucnn" and storey(name) < storey("__init__"):
            continue
        if imported.startswith("gpucnn.") and (PACKAGE / target.replace(".", "/")).with_suffix(
                ".py").exists() | (PACKAGE / target.replace(".", "/")).is_dir():
            assert storey(target) >= storey(name), f"{name} imports {target} above it"
            if storey(target) == storey(name) and name.startswith("backends."):
                assert target.split(".")[1] == name.split(".")[1], "backends know one another"


@pytest.mark.parametrize(("name", "tree"), MODULES, ids=[name for name, _ in MODULES])
def test_optional_packages_are_imported_only_where_they_belong(name, tree):
    for imported in imports_of(tree):
        homes = OPTIONAL.get(imported.partition(".")[0])
        assert homes is None or any(name == home or name.startswith(f"{home}.") for home in homes)


def test_every_package_is_in_the_wheel():
    settings = configparser.ConfigParser()
    settings.read(PACKAGE.parent / "setup.cfg", encoding="utf-8")
    packages = {".".join(path.parent.relative_to(PACKAGE.parent).parts)
                for path in PACKAGE.rglob("__init__.py")}
    assert set(settings["options"]["packages"].split()) == packages | {"gpucnn.cuda_kernels"}


def test_there_is_no_circle():
    names = {name for name, _ in MODULES}
    graph = {}
    for name, tree in MODULES:
        targets = {target.removeprefix("gpucnn.") for target in imports_of(tree)}
        graph[name] = {found for target in targets
                       for found in (target, f"{target}.__init__") if found in names} - {name}
    done = set()

    def visit(name, path):
        assert name not in path, f"circle: {' -> '.join([*path, name])}"
        if name in done:
            return
        for target in graph[name]:
            visit(target, [*path, name])
        done.add(name)

    for name in graph:
        visit(name, [])


def test_importing_gpucnn_loads_no_optional_package():
    code = ("import sys, gpucnn; print([name for name in "
            f"{sorted(OPTIONAL)!r} if name in sys.modules])")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
