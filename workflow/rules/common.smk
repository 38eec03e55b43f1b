"""The study this run is about, and what a row depends on."""

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from snakemake.logging import logger as snakemake_logger

from perflow import config as perflow_config
from perflow.errors import PerflowError, refused, unwritable

STUDY_FILE = ROOT / config.get("study", "params.yaml")
# The repository as seen from the study's home: relative, and in no rule's params, so that another place reruns nothing.
HERE = Path(os.path.relpath(ROOT))
# Where and in how many pieces a row is computed is no matter of the row: a profile says it, or `--config`.
# gpu: 1 where jobs find a GPU, though Snakemake itself may run elsewhere; parts: jobs that make a row's pairs;
# processes (GPUs), accumulate and checkpointing: of a training; compile: its network, and the one that makes pairs.
GPU = int(config.get("gpu", shutil.which("nvidia-smi") is not None))
PARTS = int(config.get("parts", 1))
PROCESSES = int(config.get("processes", 1))
CACHING = "--compile" if config.get("compile") else ""
TRAINING = (
    f"--processes {PROCESSES} --accumulate {int(config.get('accumulate', 1))}"
    + (" --checkpointing " if config.get("checkpointing") else " ")
    + CACHING
)


def one_line(record):
    """What Snakemake itself may not write: the file's name instead of a traceback."""
    found = re.search(r"\[Errno (\d+)\] ([^:]+)(?:: '(.+)')?\s*$", record.getMessage())
    if hasattr(record, "exception") and found and refused(OSError(int(found[1]), found[2])):
        record.msg, record.args = f"perflow: {unwritable(found[3] or Path.cwd(), found[2])}", ()
    return True


snakemake_logger.addFilter(one_line)
logging.raiseExceptions = False  # its log may be the file there is no room for

try:
    STUDY = perflow_config.load(STUDY_FILE)
    for name, row in STUDY.extractors.items():
        if row.weights and not perflow_config.weights(row, HERE).is_file():
            absent = perflow_config.weights(row, ROOT)
            raise PerflowError(f"{STUDY_FILE}: extractors.{name}.weights: no file {absent}")
    if absent := perflow_config.missing(STUDY, HERE):
        raise PerflowError(f"{STUDY_FILE}: {absent}; relative paths start at the repository")
    perflow_config.write_specs(STUDY, label=Path(os.path.relpath(Path.cwd(), ROOT)).as_posix())
    # The ids of runs in a database that is gone say nothing: track makes them anew.
    if not (ROOT / "mlflow.db").exists():
        Path("results/runs.json").unlink(missing_ok=True)
except PerflowError as error:
    sys.exit(f"perflow: {error}")
except OSError as error:
    if not refused(error):
        raise
    sys.exit(f"perflow: {unwritable(error.filename, error.strerror)}")


# `perflow` in the rules is the command of the interpreter that runs Snakemake, whatever PATH says: in a fork of a warm
# process where one serves this run (see worker.py), else in a process of its own. Either runs the package beside this
# workflow, whatever is installed: a copy of the repository (an experiment of DVC) has code of its own.
WORKER = shlex.quote(str(HERE / "workflow" / "worker.py"))
CODE = shlex.quote(os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
shell.prefix(
    f"export PYTHONPATH={CODE}; REPOSITORY={shlex.quote(str(HERE))}; TRAINING='{TRAINING}'; CACHING='{CACHING}'; "
    f'perflow() (exec {shlex.quote(sys.executable)} -S -E {WORKER} "$@"); set -euo pipefail; '
)


def start_worker():
    """Serve this run's jobs from one warm process; not beside a GPU, which a fork cannot share, nor elsewhere."""
    if not GPU and workflow.local_exec:
        with open(".snakemake/worker.log", "w") as log:
            command = [sys.executable, str(HERE / "workflow" / "worker.py"), "--serve"]
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)


wildcard_constraints:
    split="[^/]+",
    latents="[^/]+",
    prompts="[^/]+",
    base="[^/]+",
    extractor="[^/]+",
    pairs="[^/]+",
    student="[^/]+",
    part=r"\d+",
    parts=r"\d+",
    model="[^/]+",
    adapter="[^/]+",
    transfer="[^/]+",


def records():
    """The record of every row: without it nobody can say that the row is as it was made."""
    return [
        str(perflow_config.places.record(table, name))
        for table in perflow_config.TABLES
        for name in getattr(STUDY, table)
    ]


def manifest_of(dataset, split):
    """Manifest of a split."""
    return f"data/{perflow_config.split_row(dataset, split)}/manifest.json"


def files_of_split(wildcards):
    """Files of the user's that a split is read from, so that an edited one is read again."""
    return [str(path) for path in perflow_config.files(STUDY, wildcards.split, HERE)]


def file_of_prompts(wildcards):
    """The user's list of prompts, if they are one."""
    row = STUDY.prompts[wildcards.prompts]
    if row.list:
        return str(perflow_config.rooted(HERE, row.list.file))
    return [
        str(path)
        for path in perflow_config.files(
            STUDY, perflow_config.split_row(row.captions.dataset, row.split), HERE
        )
    ]


def verb_of_base(wildcards):
    """What makes a base: the key of its row that others lack says it."""
    row = STUDY.bases[wildcards.base]
    marks = {"source": "prepare", "fine_tune": "tune", "scaled": "blend", "interpolation": "rectify"}
    return next((verb for key, verb in marks.items() if hasattr(row, key)), "base")


def inputs_of_base(wildcards):
    """The images a base is trained on, or the bases it comes from."""
    row = STUDY.bases[wildcards.base]
    match verb_of_base(wildcards):
        case "tune":
            return {"start": handle(row.fine_tune), "latents": latents(row.fine_tune, row.dataset)}
        case "blend":
            return {"start": handle(row.base), "tuned": handle(row.scaled)}
    return {"dataset": manifest_of(row.dataset, "base")}


def checkpoint_of_base(wildcards):
    """Files of a pretrained base that lie on this machine, so that an edited checkpoint is prepared again."""
    source = getattr(STUDY.bases[wildcards.base], "source", None)
    if source is None or source.kind == "hub":
        return []
    place = perflow_config.rooted(HERE, source.folder or source.file)
    top = (path for kind in ("json", "safetensors") for path in place.glob(f"*.{kind}"))
    files = [place] if source.file else sorted(place.glob("*/*")) + sorted(top)
    return [str(file) for file in files]


def source_of_extractor(wildcards):
    """Manifest of the images a feature network is trained on, or the weights that others trained."""
    row = STUDY.extractors[wildcards.extractor]
    return manifest_of(row.dataset, "extractor") if row.dataset else str(perflow_config.weights(row, HERE))


def ruler_of_extractor(wildcards):
    """Manifest of the images by which a network's features are standardised, if they are."""
    name = STUDY.extractors[wildcards.extractor].standardise
    return manifest_of(name, "base") if name else []


def base_of_latents(wildcards):
    """Handle of the base whose autoencoder and text model make latents."""
    return handle(STUDY.latents[wildcards.latents].base)


def dataset_of_latents(wildcards):
    """Manifest of the images that are encoded."""
    return manifest_of(STUDY.latents[wildcards.latents].dataset, "base")


def latents(base, dataset):
    """Manifest of a data set as a base sees it."""
    return f"results/latents/{perflow_config.latents_row(STUDY.bases, base, dataset)}/manifest.json"


def parts_of_pairs(wildcards):
    """What jobs of their own made of the shards, and what it cost; none where one job makes all."""
    if PARTS == 1:
        return []
    part = f"results/pairs/{wildcards.pairs}/part-{{part}}-of-{PARTS}"
    return expand([f"{part}.json", f"{part}.cost.json"], part=range(1, PARTS + 1))


def latents_of_pairs(wildcards):
    """The images that pairs start from, as their base sees them."""
    row = STUDY.pairs[wildcards.pairs]
    return latents(row.base, row.dataset)


def prompts_of_model(wildcards):
    """What a model is asked to draw."""
    return f"results/prompts/{STUDY.samples[wildcards.model].prompts}/manifest.json"


def reference_of_model(wildcards):
    """Manifest of the real images a model is compared with."""
    row = STUDY.evaluations[wildcards.model]
    return manifest_of(row.dataset, row.split)


def inputs_of_adapter(wildcards):
    """The base an adapter is trained beside, what it learns from, and for a ControlNet the images themselves."""
    row = STUDY.adapters[wildcards.adapter]
    found = {"base": handle(row.base), "latents": latents(row.base, row.dataset)}
    return found | ({"dataset": manifest_of(row.dataset, "base")} if row.kind == "controlnet" else {})


def inputs_of_transfer(wildcards):
    """What is drawn in a setting, with what."""
    row = STUDY.transfers[wildcards.transfer]
    found = {
        "base": handle(row.base),
        "model": handle(row.model),
        "prompts": f"results/prompts/{row.prompts}/manifest.json",
    }
    if row.shows:
        found["dataset"] = manifest_of(row.dataset, row.split)
    return found | ({"adapter": f"results/adapters/{row.adapter}/adapter.json"} if row.adapter else {})


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


def verb_of_student(wildcards):
    """What makes a student's weights. How a training runs here is the shell's to know: a change of it reruns nothing."""
    return "take" if STUDY.students[wildcards.student].source else "train $TRAINING"


def inputs_of_student(wildcards):
    """The model a student starts from, its base or another student, the pairs it learns from, and the network that its
    loss asks, if it asks one."""
    row = STUDY.students[wildcards.student]
    found = {"start": handle(row.start or row.base)}
    if row.pairs:
        found["pairs"] = f"results/pairs/{row.pairs}/manifest.json"
    return found | ({"perceptual": network(row.perceptual)} if row.perceptual else {})


def released_of_student(wildcards):
    """Released weights on this machine, so that an edited file is taken again."""
    source = STUDY.students[wildcards.student].source
    if source is None:
        return []
    place = perflow_config.rooted(HERE, source.weights)
    return [str(path) for path in ([place] if place.is_file() else sorted(place.rglob("*.safetensors")))]


def base_of_student(wildcards):
    """Handle of the base a student is a delta of."""
    return handle(STUDY.students[wildcards.student].base)


def handle_of_model(wildcards):
    """Handle of the model that is sampled."""
    return handle(wildcards.model)


def base_of_model(wildcards):
    """Handle of the base that counts as a model's teacher."""
    return handle(STUDY.samples[wildcards.model].base)


def drawn(name):
    """Manifest of the samples of a model, or of a model in a setting."""
    return f"results/{'transfers' if name in STUDY.transfers else 'samples'}/{name}/manifest.json"


def samples_of(wildcards):
    """Manifest of the samples that are measured."""
    return drawn(wildcards.model)


def teacher_samples_of(wildcards):
    """Manifest of the samples that hold the teacher's."""
    return drawn(STUDY.evaluations[wildcards.model].base)


def extractor_of_search(wildcards):
    """The feature network by which the spacings of a model's trials are searched for, if any is."""
    name = STUDY.samples[wildcards.model].extractor
    return f"results/extractors/{name}/extractor.safetensors" if name else []


def captions_of_search(wildcards):
    """Manifest of the captions that a search draws: the base's own split."""
    row = STUDY.samples[wildcards.model]
    return manifest_of(row.dataset, "base") if row.extractor else []


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
    return network(STUDY.evaluations[wildcards.model].extractor)


def clip_of(wildcards):
    """The CLIP that tells how well a model's images show their prompts, if one does."""
    return network(STUDY.evaluations[wildcards.model].clip)


def lpips_of(wildcards):
    """The LPIPS that tells a prompt's images apart, if one does."""
    return network(STUDY.evaluations[wildcards.model].lpips)


def real_of(wildcards):
    """The user's file of features that stands for the real images, if one does."""
    real = STUDY.evaluations[wildcards.model].given
    return str(perflow_config.rooted(HERE, real.features)) if real else []


def network(name):
    """A network of the table of extractors; nothing where a row names none."""
    return f"results/extractors/{name}/extractor.safetensors" if name else []
