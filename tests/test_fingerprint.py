"""The fingerprint sees what runs, and nothing else."""

import textwrap

import pytest

from perflow import fingerprint

CACHES = (fingerprint.fingerprint, fingerprint._tree, fingerprint._text, fingerprint._imports)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the rules on a small package: a stage, a helper it imports, a registry, a plug-in."""
    root = tmp_path / "perflow"
    for name, text in {
        "stages/go.py": (
            '"""Doc."""\nfrom perflow.core.maths import double\nfrom perflow.methods import METHODS\n'
            'def go(x):\n    """Doc."""\n    # comment\n    return double(x)\n'
        ),
        "core/maths.py": "def double(x):\n    return 2 * x\n",
        "core/other.py": "def triple(x):\n    return 3 * x\n",
        "methods/__init__.py": 'METHODS = {"a": "perflow.methods.a:A"}\n',
        "methods/a.py": "class A:\n    pass\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(fingerprint, "_ROOT", root)

    def measure(*roots: str) -> str:
        for cached in CACHES:
            cached.cache_clear()
        return fingerprint.fingerprint(*roots)

    yield root, measure
    for cached in CACHES:
        cached.cache_clear()


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("stages/go.py", "# comment", "# another comment", False),
        ("stages/go.py", '"""Doc."""', '"""Another."""', False),
        ("stages/go.py", "    return double(x)", "    return double( x )", False),
        ("stages/go.py", "return double(x)", "return double(x + 1)", True),
        ("core/maths.py", "2 * x", "2.0 * x", True),
        ("core/other.py", "3 * x", "4 * x", False),
        ("methods/__init__.py", '"a"', '"b"', False),
        ("methods/a.py", "pass", "size = 1", True),
    ],
)
def test_an_edit_counts_exactly_when_the_stage_or_its_plug_in_runs_it(package, file, old, new, changes):
    root, measure = package
    before = measure("perflow.stages.go", "perflow.methods.a:A")
    edit(root / file, old, new)
    assert (measure("perflow.stages.go", "perflow.methods.a:A") != before) is changes


def test_registries_hold_no_code_that_a_fingerprint_would_miss(root):
    """Packages' ``__init__`` are left out of fingerprints, so a stage must not depend on what they do."""
    import ast

    allowed = {"perflow/__init__.py", "perflow/methods/__init__.py", "perflow/models/__init__.py"}
    for path in sorted((root / "perflow").glob("*/__init__.py")):
        tree = ast.parse(path.read_text())
        functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert not functions or path.relative_to(root).as_posix() in allowed, f"{path}: {functions}"


def test_the_text_that_is_hashed_does_not_depend_on_the_python(root):
    """``ast.unparse`` text, not ``ast.dump``, whose form differs between minor versions."""
    assert "FunctionDef" not in fingerprint._text("perflow.methods.distill")
    assert textwrap.dedent(fingerprint._text("perflow.methods.distill")).startswith("from __future__")
