"""The rules of the house, read from the imports of every module: which rooms stand on which, and that nothing stands on itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "aer_lightning"
# room -> rooms that it never imports, for typing neither
FORBIDDEN = {
    "rollout": {"algorithms", "kernels", "data", "modules", "callbacks", "metrics", "reporting", "study"},
    "algorithms": {"rollout", "kernels", "data", "modules", "callbacks", "metrics", "reporting", "study"},
    "kernels": {"rollout", "algorithms", "data", "modules", "callbacks", "metrics", "reporting", "study"},
    "metrics": {"data", "modules", "callbacks"},
    "data": {"modules", "callbacks"},
    "modules": {"data", "callbacks"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path, *, at_import: bool) -> set[str]:
    """Modules of the package that ``path`` names; ``at_import`` leaves out those inside functions and for typing."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            if isinstance(child, ast.ImportFrom) and child.module and not child.level:
                found.update(f"{child.module}.{a.name}" if f"{child.module}.{a.name}" in MODULES else child.module for a in child.names)
            visit(child)

    visit(ast.parse(path.read_text()))
    return {name for name in found if name.split(".")[0] == "aer_lightning"}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_stand_on_what_they_may(room):
    wrong = [
        f"{module}: {name}"
        for module, path in MODULES.items()
        if module.split(".")[1:2] == [room]
        for name in imports(path, at_import=False)
        if name.split(".")[1:2] and name.split(".")[1] in FORBIDDEN[room]
    ]
    assert not wrong


def test_no_import_circle():
    """Not even for typing: what two modules need of one another belongs in a third."""
    graph = {module: imports(path, at_import=True) & set(MODULES) - {module} for module, path in MODULES.items()}
    # an __init__ collects the names of its own folder, whose modules may name their siblings through it
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                walk(other, [*trail, module])
            done.add(module)

    for module in graph:
        walk(module, [])


@pytest.mark.parametrize(
    ("room", "heavy"),
    [
        ("rollout", ("lightning", "transformers", "vllm", "torchmetrics", "jsonargparse", "sympy")),
        ("algorithms", ("lightning", "transformers", "vllm", "torchmetrics", "jsonargparse", "sympy")),
        ("kernels", ("lightning", "transformers", "vllm", "torchmetrics", "jsonargparse", "sympy")),
        ("__main__", ("torch", "lightning", "transformers")),
    ],
)
def test_what_a_room_loads(room, heavy):
    code = f"import sys, aer_lightning.{room}; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert out.stdout.strip() == "[]"
