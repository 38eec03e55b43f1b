"""The study this run is about, and what a row depends on."""

import os
import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from perflow import config as perflow_config
from perflow.errors import PerflowError

STUDY_FILE = ROOT / config.get("study", "params.yaml")
# The repository as seen from the study's home: relative, so that another place on the disk reruns nothing.
HERE = Path(os.path.relpath(ROOT))
GPU = int(shutil.which("nvidia-smi") is not None)

try:
    STUDY = perflow_config.load(STUDY_FILE)
    perflow_config.write_specs(STUDY, label=Path(os.path.relpath(Path.cwd(), ROOT)).as_posix())
except PerflowError as error:
    sys.exit(f"perflow: {error}")


# The ids of runs in a database that is gone say nothing: track makes them anew.
if not (ROOT / "mlflow.db").exists():
    Path("results/runs.json").unlink(missing_ok=True)


# `perflow` in a rule is the command of the interpreter that runs Snakemake, whatever PATH says.
shell.prefix(f'perflow() (exec {shlex.quote(sys.executable)} -m perflow "$@"); set -euo pipefail; ')


wildcard_constraints:
    dataset="[^/]+",
    base="[^/]+",
    extractor="[^/]+",
    pairs="[^/]+",
    student="[^/]+",
    model="[^/]+",


def dataset_of_base(wildcards):
    """Manifest of the images a base is trained on."""
    return f"data/{STUDY.bases[wildcards.base].dataset}/manifest.json"


def dataset_of_extractor(wildcards):
    """Manifest of the images a feature network is trained on."""
    return f"data/{STUDY.extractors[wildcards.extractor].dataset}/manifest.json"


def dataset_of_pairs(wildcards):
    """Manifest of the images that pairs start from."""
    return f"data/{STUDY.pairs[wildcards.pairs].dataset}/manifest.json"


def dataset_of_samples(wildcards):
    """Manifest of the captions that are drawn."""
    return f"data/{STUDY.samples[wildcards.model].dataset}/manifest.json"


def teacher_of_pairs(wildcards):
    """Handle of the model that makes pairs."""
    return f"results/bases/{STUDY.pairs[wildcards.pairs].base}/model.json"


def base_of_student(wildcards):
    """Handle of the base a student starts from."""
    return f"results/bases/{STUDY.students[wildcards.student].base}/model.json"


def pairs_of_student(wildcards):
    """Manifest of the pairs a student learns from."""
    return f"results/pairs/{STUDY.students[wildcards.student].pairs}/manifest.json"


def handle_of_model(wildcards):
    """Handle of a model, taught or not."""
    kind = "bases" if wildcards.model in STUDY.bases else "students"
    return f"results/{kind}/{wildcards.model}/model.json"


def base_of_model(wildcards):
    """Handle of the base that counts as a model's teacher."""
    return f"results/bases/{STUDY.samples[wildcards.model].base}/model.json"


def teacher_samples_of(wildcards):
    """Manifest of the samples that hold the teacher's."""
    return f"results/samples/{STUDY.samples[wildcards.model].base}/manifest.json"


def extractor_of(wildcards):
    """The feature network a model is measured with."""
    name = STUDY.evaluations[wildcards.model].extractor
    return f"results/extractors/{name}/extractor.safetensors"
