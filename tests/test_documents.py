"""What the documents say is what the code and the measured tables say."""

import base64
import re
import tomllib

import yaml

from perflow import config


def test_environment_yml_states_nothing_twice_and_agrees_with_pyproject(root):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert f"python{project['requires-python']}" in environment["dependencies"]
    assert {"pip": ["-r requirements.lock", "-e ."]} in environment["dependencies"]
    assert len(environment["dependencies"]) == 3


def test_every_dependency_is_pinned_without_an_address(root):
    lock = (root / "requirements.lock").read_text()
    pins = set(re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE))
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    assert {re.match(r"[a-z0-9._-]+", name).group() for name in wanted} <= pins
    assert "://" not in lock
    assert not (root / "uv.lock").exists()


def test_readme_shows_the_measured_tables(root):
    from perflow import report

    readme = (root / "README.md").read_text()
    for block, write in (("table", report.headline), ("readings", report.readings_markdown)):
        shown = readme.split(f"<!-- {block} -->")[1].split(f"<!-- /{block} -->")[0].strip()
        assert shown == write(root / "docs/results/digits").strip()


def test_the_measured_table_is_of_the_study_as_it_stands(root):
    """Arms of docs/results/digits are the rows that params.yaml expands to: no row renamed, dropped or left over."""
    import csv

    study = config.load(root / "params.yaml")
    with open(root / "docs/results/digits/tables/main.csv") as file:
        measured = {(row["key"], row["trial"]) for row in csv.DictReader(file)}
    expected = set()
    for name, samples in study.samples.items():
        key = name if name in study.bases else name.rsplit("-s", 1)[0]
        expected |= {(key, trial.name) for trial in samples.trials}
    assert measured == expected


def test_every_file_the_documents_name_is_there(root):
    for page in (root / "README.md", root / "docs/method.md"):
        for name in re.findall(
            r"`((?:core|methods|metrics|stages|models|datasets|config)/[a-z_0-9]+\.py)`", page.read_text()
        ):
            assert (root / "perflow" / name).is_file(), f"{page.name}: {name}"


def test_nothing_unfinished_is_left(root):
    for path in [*root.glob("perflow/**/*.py"), *root.glob("workflow/**/*")]:
        if path.is_file():
            assert not re.search(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError", path.read_text()), path


def test_what_snakemake_remembers_of_mlflow_is_not_versioned(root):
    """Its memory of a file is a file of that name in base64."""
    name = base64.b64encode(b"results/runs.json").decode()
    assert name in (root / ".dvcignore").read_text().splitlines()


def test_every_output_of_the_workflow_is_versioned(root):
    """Each file a rule makes lies under an out or metric of dvc.yaml; MLflow's ids alone do not."""
    stage = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]["study"]
    outs = [name for entry in stage["outs"] + stage["metrics"] for name in entry]
    assert all(options["persist"] for entry in stage["outs"] + stage["metrics"] for options in entry.values())
    for file in sorted((root / "workflow/rules").glob("*.smk")):
        outputs = re.findall(r"    output:\n((?:        .*\n)+)", file.read_text())
        for name in re.findall(r'"([a-z]+/[^"]+)"', "".join(outputs)):
            assert name == "results/runs.json" or any(name == out or name.startswith(out + "/") for out in outs), name
