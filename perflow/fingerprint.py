"""A fingerprint of the code that will read a row: comments and docstrings do not count.

Snakemake does not see package code behind a command line, so each spec carries the hash of the
modules its stage can reach. Reach is static: the imports written in a module, at any depth, inside
this package. Registries (a package's ``__init__``) and the configuration are left out, because what
they say about a row stands in the row itself; the plug-ins a row names are roots of their own.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

_ROOT = Path(__file__).parent
_LEFT_OUT = ("perflow.config", "perflow.cli", "perflow.errors")


@functools.cache
def fingerprint(*roots: str) -> str:
    """Hash of every module reachable from ``roots`` (dotted names, a ``:name`` suffix is ignored)."""
    found: set[str] = set()
    todo = [root.partition(":")[0] for root in roots]
    while todo:
        name = todo.pop()
        if name in found or name.startswith(_LEFT_OUT):
            continue
        found.add(name)
        todo.extend(_imports(name))
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(f"{name}\n{_text(name)}\n".encode())
    return digest.hexdigest()[:16]


def _file(name: str) -> Path | None:
    """The file of a plain module; None for packages (registries) and for names that are no module."""
    path = _ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py")
    return path if path.is_file() and path.name != "__init__.py" else None


@functools.cache
def _tree(name: str) -> ast.Module:
    path = _file(name)
    if path is None:
        return ast.Module(body=[], type_ignores=[])
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [line for line in node.body if not _is_text(line)] or [ast.Pass()]
    return tree


def _is_text(node: ast.stmt) -> bool:
    """A bare string: a docstring, or a note under an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@functools.cache
def _text(name: str) -> str:
    return ast.unparse(_tree(name))


@functools.cache
def _imports(name: str) -> tuple[str, ...]:
    names: set[str] = set()
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(sorted(n for n in names if n.startswith("perflow.") and _file(n)))
