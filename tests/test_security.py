"""Nothing that is read can run code, nothing of a study reaches a shell unquoted, and no secret is written down."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from perflow import config
from perflow.config.load import _Loader
from perflow.errors import PerflowError
from tests.conftest import ROOT
from tests.workflow.conftest import copy_repository

SOURCES = sorted([*ROOT.glob("perflow/**/*.py"), *ROOT.glob("workflow/*.py")])
FORBIDDEN = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch.load", "numpy.load", "np.load",
    "eval", "exec", "compile", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "zipfile.extractall",
    "extractall", "extract", "unpack_archive",
}  # fmt: skip


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_can_run_code_by_being_read(path):
    tree = ast.parse(path.read_text())
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in [*node.names, ast.alias(getattr(node, "module", None) or "")]
    }
    assert not imported & FORBIDDEN
    for call in calls(tree):
        name = ast.unparse(call.func)
        assert name not in FORBIDDEN, f"line {call.lineno}"
        assert name.rpartition(".")[2] not in {"extractall", "extract", "unpack_archive"}, f"line {call.lineno}"
        options = {option.arg: ast.unparse(option.value) for option in call.keywords}
        assert not {"trust_remote_code", "allow_pickle", "weights_only"} & options.keys(), f"line {call.lineno}"
        assert options.get("shell", "False") == "False", f"line {call.lineno}"
        if name == "yaml.load":
            assert options["Loader"] == "_Loader"
            assert issubclass(_Loader, yaml.SafeLoader)
        if name.endswith(".from_pretrained"):
            assert options.get("local_files_only") == "True", f"line {call.lineno}"


def test_weights_are_read_from_safetensors_alone():
    """Whatever diffusers or transformers reads from a folder, but for tokenizers and schedulers, which hold none."""
    safe, weightless = [], []
    folders = [ROOT / "perflow" / part for part in ("models", "integrations", "metrics")]
    for path in [path for folder in folders for path in folder.glob("*.py")]:
        for call in calls(ast.parse(path.read_text())):
            if ast.unparse(call.func).endswith((".from_pretrained", "self._read")):
                options = {option.arg: ast.unparse(option.value) for option in call.keywords}
                found = safe if options.get("use_safetensors") == "True" else weightless
                found.append((path.name, ast.unparse(call.func)))
    assert len(safe) == 4
    assert sorted(weightless) == [
        ("clip.py", "CLIPConfig.from_pretrained"),
        ("clip.py", "CLIPImageProcessor.from_pretrained"),
        ("clip.py", "CLIPTokenizer.from_pretrained"),
        ("merge.py", "kind.from_pretrained"),  # a scheduler
        ("parts.py", "kind.from_pretrained"),  # what _read itself calls
        ("stable_diffusion.py", "CLIPTokenizer.from_pretrained"),
        ("stable_diffusion.py", "self._read"),  # a tokenizer
    ]


def test_every_value_in_a_rules_command_is_quoted():
    found = 0
    for path in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for block in re.findall(r'    shell:\n((?:        ".*\n)+)', path.read_text()):
            fields = re.findall(r"\{([^}]+)\}", block)
            assert fields
            assert all(field.endswith(":q") for field in fields), f"{path.name}: {fields}"
            found += len(fields)
    assert found > 30


HOSTILE = ["a b", "a'b", 'a"b', "a;touch x", "a\nb", "$(touch x)", "`touch x`", "../a", "/a", "a/b", "-a", "a&b", "a|b",
           "a*", "{wildcards}", "a\\b", "ü", ""]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_a_shell_could_misread_is_refused_in_one_line(name, tiny_params, write_params):
    """Names become paths, wildcards and words of commands."""
    places = [("datasets", "digits"), ("bases", "eps"), ("extractors", "tiny-cnn"), ("pairs", "fixed"),
              ("students", "perflow")]  # fmt: skip
    for table, old in places:
        changed = tiny_params | {table: tiny_params[table] | {name: tiny_params[table][old]}}
        with pytest.raises(PerflowError, match="a name is letters, digits") as caught:
            config.load(write_params(changed))
        assert str(caught.value).isprintable()
    with pytest.raises(PerflowError, match="a name is letters, digits"):
        config.load(write_params(tiny_params | {"study": name}))


def test_a_label_is_one_line_and_its_markup_is_shown_not_run(tiny_params, write_params):
    for label in ("two\nlines", "\x1b[31mred", "x" * 121, ""):
        tiny_params["students"]["perflow"]["label"] = label
        with pytest.raises(PerflowError, match="a label is one line of at most 120 characters"):
            config.load(write_params(tiny_params))
    tiny_params["students"]["perflow"]["label"] = "<script>alert(1)</script>"
    assert config.load(write_params(tiny_params)).students


def secretive() -> dict[str, str]:
    """Secrets as an environment holds them."""
    names = ("SECRET_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD")
    return {name: f"s3cr3t-{name.lower()}-0xC0FFEE" for name in names}


def holding(folder: Path, secrets: dict[str, str]) -> list[Path]:
    """Files that hold a secret."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(value.encode() in path.read_bytes() for value in secrets.values())]


def test_a_repository_at_an_odd_path_works_and_writes_no_secret(tmp_path):
    """Spaces, quotes, a dollar and a semicolon in the path; secrets in the environment; the real rules."""
    repository = copy_repository(ROOT, tmp_path / """it's a "study"; $HOME & more""")
    secrets = secretive()
    done = subprocess.run(
        repository.command("data/digits-base/manifest.json", cores="1"), cwd=repository.root,
        env=repository.environment() | secrets, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert (repository.home / "data/digits-base/manifest.json").is_file()
    assert (repository.home / "logs/fetch/digits-base.log").is_file()
    assert not holding(repository.root, secrets)
    assert sorted(path.name for path in tmp_path.iterdir()) == [repository.root.name]


def test_mlflows_page_is_served_to_this_machine_alone():
    """``mlflow ui`` is ``mlflow server``: its default host is the loopback, and no page names another."""
    code = "from mlflow.cli import server; print({p.name: p.default for p in server.params}['host'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"})  # fmt: skip
    assert done.stdout.split()[-1] in ("127.0.0.1", "localhost")
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        assert "0.0.0.0" not in page.read_text(), page
