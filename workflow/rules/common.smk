"""The study this run is about, and what a row depends on."""

import os
import shlex
import shutil
import subprocess
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
    for name, row in STUDY.extractors.items():
        if row.weights and not (HERE / row.weights).is_file():
            raise PerflowError(f"{STUDY_FILE}: extractors.{name}.weights: no file {ROOT / row.weights}")
    perflow_config.write_specs(STUDY, label=Path(os.path.relpath(Path.cwd(), ROOT)).as_posix())
except PerflowError as error:
    sys.exit(f"perflow: {error}")


# The ids of runs in a database that is gone say nothing: track makes them anew.
if not (ROOT / "mlflow.db").exists():
    Path("results/runs.json").unlink(missing_ok=True)


# `perflow` in the rules is the command of the interpreter that runs Snakemake, whatever PATH says: in a fork of a warm
# process where one serves this run (see worker.py), else in a process of its own. Either runs the package beside this
# workflow, whatever is installed: a copy of the repository (an experiment of DVC) has code of its own.
WORKER = shlex.quote(str(HERE / "workflow" / "worker.py"))
CODE = shlex.quote(os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
shell.prefix(
    f"export PYTHONPATH={CODE}; "
    f'perflow() (exec {shlex.quote(sys.executable)} -S -E {WORKER} "$@"); set -euo pipefail; '
)


def start_worker():
    """Serve this run's jobs from one warm process; not beside a GPU, which a fork cannot share."""
    if not GPU:
        with open(".snakemake/worker.log", "w") as log:
            command = [sys.executable, str(HERE / "workflow" / "worker.py"), "--serve"]
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)


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


def verb_of_base(wildcards):
    """What makes a base."""
    return "prepare" if hasattr(STUDY.bases[wildcards.base], "source") else "base"


def checkpoint_of_base(wildcards):
    """Files of a pretrained base that lie on this machine, so that an edited checkpoint is prepared again."""
    source = getattr(STUDY.bases[wildcards.base], "source", None)
    if source is None or source.kind == "hub":
        return []
    place = Path(os.path.expanduser(source.folder or source.file))
    files = [place] if source.file else sorted(place.glob("*/*")) + [place / "model_index.json"]
    return [str(file) for file in files]


def source_of_extractor(wildcards):
    """Manifest of the images a feature network is trained on, or the weights that others trained."""
    row = STUDY.extractors[wildcards.extractor]
    return f"data/{row.dataset}/manifest.json" if row.dataset else str(HERE / row.weights)


def dataset_of_pairs(wildcards):
    """Manifest of the images that pairs start from."""
    return f"data/{STUDY.pairs[wildcards.pairs].dataset}/manifest.json"


def dataset_of_samples(wildcards):
    """Manifest of the captions that are drawn."""
    return f"data/{STUDY.samples[wildcards.model].dataset}/manifest.json"


def handle(model):
    """Handle of a model, taught or not."""
    return f"results/{'bases' if model in STUDY.bases else 'students'}/{model}/model.json"


def teacher_of_pairs(wildcards):
    """Handle of the model that makes pairs: their base, or a student."""
    row = STUDY.pairs[wildcards.pairs]
    return handle(row.teacher or row.base)


def student_of_pairs(wildcards):
    """Handle of the student at whose own states windows start, if pairs have one."""
    row = STUDY.pairs[wildcards.pairs]
    return handle(row.student) if row.student else []


def start_of_student(wildcards):
    """Handle of the model a student starts from: its base, or another student."""
    row = STUDY.students[wildcards.student]
    return handle(row.start or row.base)


def base_of_student(wildcards):
    """Handle of the base a student is a delta of."""
    return handle(STUDY.students[wildcards.student].base)


def pairs_of_student(wildcards):
    """Manifest of the pairs a student learns from."""
    return f"results/pairs/{STUDY.students[wildcards.student].pairs}/manifest.json"


def handle_of_model(wildcards):
    """Handle of the model that is sampled."""
    return handle(wildcards.model)


def base_of_model(wildcards):
    """Handle of the base that counts as a model's teacher."""
    return handle(STUDY.samples[wildcards.model].base)


def teacher_samples_of(wildcards):
    """Manifest of the samples that hold the teacher's."""
    return f"results/samples/{STUDY.samples[wildcards.model].base}/manifest.json"


def extractor_of_search(wildcards):
    """The feature network by which the spacings of a model's trials are searched for, if any is."""
    name = STUDY.samples[wildcards.model].extractor
    return f"results/extractors/{name}/extractor.safetensors" if name else []


def pairs_of_samples(wildcards):
    """Manifest of the pairs whose starts are compared with a student's own states, if they are."""
    name = STUDY.samples[wildcards.model].pairs
    return f"results/pairs/{name}/manifest.json" if name else []


def given(*names):
    """The options of inputs that only some rows have: ``--name file`` for each that this one has."""

    def options(wildcards, input):
        return [part for name in names if input.get(name) for part in (f"--{name}", str(input.get(name)))]

    return options


def extractor_of(wildcards):
    """The feature network a model is measured with."""
    name = STUDY.evaluations[wildcards.model].extractor
    return f"results/extractors/{name}/extractor.safetensors"
