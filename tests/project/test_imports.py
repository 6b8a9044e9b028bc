"""The architecture: which package may import which, no import cycles, and small files."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers.harness import ROOT

Graph = dict[str, set[str]]

# Each package, or module of `bcd/` itself, and what it imports; it may import earlier rows only.
LAYERS: dict[str, str] = {
    "errors": "",
    "storage": "",
    "console": "",
    "run_folder": "errors storage",
    "config": "errors storage",
    "cli": "errors storage console config",
    "data": "errors storage console config",
    "models": "errors storage console run_folder config",
    "features": "errors storage console config data models",
    "evaluation": "errors storage console config data models features",
    "explain": "errors config data models",
    "reporting": "storage console run_folder config data evaluation",
    "audit": ("errors storage console run_folder config data models features evaluation reporting"),
    "interop": "config",
    "inference": (
        "errors storage console run_folder config data models features evaluation explain "
        "reporting audit interop"
    ),
    "export": (
        "errors storage console run_folder config data models features evaluation inference"
    ),
    "slides": "errors storage console run_folder config data evaluation reporting inference",
    "training": (
        "errors storage console run_folder config cli data models features evaluation explain "
        "reporting audit inference"
    ),
    "sweeps": "errors storage console run_folder config cli evaluation reporting training",
    "release": (
        "errors storage console run_folder cli config data models features evaluation reporting "
        "audit inference training sweeps"
    ),
    "serving": (
        "errors storage console config data evaluation explain reporting interop inference"
    ),
    "commands": (
        "errors storage console config cli data models features audit inference export slides "
        "training sweeps release serving"
    ),
    "__main__": "errors config cli",
    "__init__": "config inference",
}
MAX_LINES = 300
MAX_ROOT_MODULES = 6


def module_name(file: Path, root: Path) -> str:
    """Dotted name of a file, `bcd.data` for `bcd/data/__init__.py`."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(root: Path) -> Graph:
    """Modules of `bcd` that each module imports, at its top or in a function."""
    files = {module_name(file, root): file for file in root.glob("bcd/**/*.py")}
    graph: Graph = {name: set() for name in files}
    for name, file in files.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert not node.level, f"{file}: relative import"
                targets = [
                    full if (full := f"{node.module}.{alias.name}") in files else node.module
                    for alias in node.names
                ]
            else:
                continue
            # The package `bcd` itself only has the version and lazy entry points.
            graph[name] |= {target for target in targets if target in files} - {"bcd", name}
    return graph


def layer_of(module: str) -> str:
    """The row of `LAYERS` that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def layer_imports(graph: Graph) -> Graph:
    """Layers that each layer imports, itself left out."""
    found: Graph = {}
    for module, targets in graph.items():
        own = layer_of(module)
        found.setdefault(own, set()).update({layer_of(t) for t in targets} - {own})
    return found


def upward_imports(graph: Graph) -> list[str]:
    """Imports of a later layer, as `module -> module`."""
    order = list(LAYERS)
    return sorted(
        f"{module} -> {target}"
        for module, targets in graph.items()
        for target in targets
        if order.index(layer_of(target)) > order.index(layer_of(module))
    )


def find_cycle(graph: Graph) -> list[str]:
    """Modules of an import cycle, the first one again at the end; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def long_files(root: Path) -> list[str]:
    """Files with too many lines, with their number."""
    files = [*root.glob("bcd/**/*.py"), *root.glob("tests/**/*.py"), *root.glob("bench/*.py")]
    counts = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    return [f"{file}: {n} lines" for file, n in sorted(counts.items()) if n > MAX_LINES]


def test_packages_import_earlier_layers_only() -> None:
    assert upward_imports(import_graph(ROOT)) == []


def test_the_table_lists_every_import_between_layers() -> None:
    expected = {layer: set(names.split()) for layer, names in LAYERS.items()}
    assert layer_imports(import_graph(ROOT)) == expected


def test_no_modules_import_each_other_in_a_cycle() -> None:
    assert find_cycle(import_graph(ROOT)) == []


def test_no_file_is_too_long() -> None:
    assert long_files(ROOT) == []


def test_few_modules_are_outside_packages() -> None:
    modules = sorted(file.name for file in (ROOT / "bcd").glob("*.py"))
    assert len(modules) <= MAX_ROOT_MODULES, modules


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with one correct import, to which violations are added."""
    for name in ("__init__", "errors", "data/__init__", "data/load", "models/__init__"):
        file = tmp_path / "bcd" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "bcd/models/network.py").write_text("from bcd.data.load import x\n")
    return tmp_path


def test_an_upward_import_inside_a_function_is_found(package: Path) -> None:
    assert upward_imports(import_graph(package)) == []
    (package / "bcd/data/scan.py").write_text("def f():\n    from bcd.models import network\n")
    graph = import_graph(package)
    assert upward_imports(graph) == ["bcd.data.scan -> bcd.models.network"]
    assert layer_imports(graph)["data"] == {"models"}


def test_a_cycle_through_a_function_is_found(package: Path) -> None:
    assert find_cycle(import_graph(package)) == []
    (package / "bcd/data/load.py").write_text("def f():\n    import bcd.data.scan\n")
    (package / "bcd/data/scan.py").write_text("from bcd.data import load\n")
    assert set(find_cycle(import_graph(package))) == {"bcd.data.load", "bcd.data.scan"}


def test_a_long_file_is_found(package: Path) -> None:
    assert long_files(package) == []
    (package / "bcd/errors.py").write_text("x = 1\n" * (MAX_LINES + 1))
    assert [line.rpartition(": ")[2] for line in long_files(package)] == [f"{MAX_LINES + 1} lines"]
