"""MLflow as a view of files: one run a row, below one run for the study. The only door to mlflow.

The view can be rebuilt at any time from results/, so nothing is read back from it. A run's id is a function of what
it says, so the report can name it before there is a database, and after any rebuild. When anything that was
recorded of a row changes, another run takes its place and the old one is deleted (MLflow keeps deleted runs out of
sight until its own garbage collection; a row that says the same again gets its old run back).
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from perflow import artifacts
from perflow.checkout import checkout
from perflow.errors import PerflowError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "perflow"
_RULES = {
    "bases": "base", "extractors": "extractor", "adapters": "adapt", "pairs": "cache", "students": "train",
    "study": "collect",
}  # fmt: skip
_COSTS = ("seconds", "cpu_seconds", "peak_mib", "bytes", "teacher_evaluations", "student_passes")
_CURVE = ("loss", "lr", "grad_norm")
_BATCH = {"metrics": 1000, "params": 100}
_LONGEST = 6000
"""MLflow's limits: metrics and params a call, characters of a param."""


@dataclass(frozen=True)
class Record:
    """All that is recorded of one row."""

    table: str
    name: str
    spec: str
    params: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[str, float, int]] = field(default_factory=list)
    """(metric, value, step)."""
    files: dict[str, Path] = field(default_factory=dict)
    """Path below the run's artifacts -> file."""
    texts: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """Table and name: what a run stands for."""
        return f"{self.table}/{self.name}"

    def content(self) -> str:
        """A hash of everything recorded."""
        hashes = {place: artifacts.sha256_file(path) for place, path in self.files.items()}
        everything = [self.spec, self.params, self.metrics, self.curve, hashes, self.texts]
        return artifacts.sha256_bytes(json.dumps(everything, sort_keys=True).encode())

    def run(self, study: str) -> str:
        """The id of the run that says this, 32 hexadecimal digits."""
        return artifacts.sha256_bytes(f"{study}\0{self.key}\0{self.content()}".encode())[:32]


def write_ids(study_spec: str | Path, results_dir: str | Path) -> None:
    """Write ``results_dir``/tables/runs.csv: the row and the run's id of all that ``sync`` will record."""
    results = Path(results_dir)
    study = artifacts.read_object(study_spec, "a summary of a study", models=list, settings=dict)
    rows = [(record.key, record.run(_key(study))) for record in _all(study, results)]
    artifacts.write_text(
        results / "tables" / "runs.csv", "".join(f"{key},{run}\n" for key, run in [("row", "run"), *rows])
    )


def sync(
    study_spec: str | Path,
    results_dir: str | Path,
    database: str | Path,
    store: str | Path,
    page: str | Path | None = None,
) -> dict[str, str]:
    """Bring the sqlite ``database`` (files below ``store``) in step with the collected results.

    Returns and writes to ``results_dir``/runs.json: ``<table>/<row>`` -> run id, for bases, extractors, pairs,
    students, and ``study/<key>``, the parent of all (see :func:`_key`). ``page`` is attached to the parent if it
    exists. Doing it again changes nothing; rows the study no longer names disappear.
    """
    results = Path(results_dir)
    study = artifacts.read_object(study_spec, "a summary of a study", models=list, settings=dict)
    parent, *records = _all(study, results)
    with artifacts.locked(Path(f"{database}.lock")), _speaking(database):
        client = _client(database)
        experiment = _experiment(client, Path(store), Path(database))
        live = _live(client, experiment, _key(study))
        common = _common_tags(_key(study))
        runs = {parent.key: _bring(client, experiment, parent, live, common)}
        child = common | {"mlflow.parentRunId": runs[parent.key]}
        for record in records:
            runs[record.key] = _bring(client, experiment, record, live, child)
        for run in live.keys() - set(runs.values()):
            client.delete_run(run)
        if page is not None and Path(page).is_file():
            client.log_artifact(runs[parent.key], str(page))
    artifacts.write_json(results / "runs.json", runs)
    return runs


@contextlib.contextmanager
def _speaking(database: str | Path) -> Iterator[None]:
    """Turn what MLflow and sqlite raise, such as on a full disk or a damaged file, into one line with a way out."""
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        if not isinstance(error, MlflowException | SQLAlchemyError):
            raise
        reason = str(error).partition("\n")[0]
        raise PerflowError(
            f"{database}: MLflow cannot use it ({reason}); make room or allow writing there, or delete it "
            "(it is rebuilt from results/), and run the same command again"
        ) from None


def _all(study: dict[str, Any], results: Path) -> list[Record]:
    """The parent, then its children."""
    tables = {name: _read(results / "tables" / f"{name}.csv") for name in ("rows", "curves", "costs")}
    return [_study_record(study, results), *_records(study, results, tables)]


def _client(database: str | Path) -> MlflowClient:
    """A client of the sqlite file; mlflow's telemetry is off before it is imported."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    database = Path(database).absolute()
    if not database.exists():  # complete or absent: MLflow cannot go on with tables that were half made
        database.parent.mkdir(parents=True, exist_ok=True)
        with artifacts.atomic(database) as temporary:
            MlflowClient(f"sqlite:///{temporary}").search_experiments()
    return MlflowClient(f"sqlite:///{database}")


def _experiment(client: MlflowClient, store: Path, database: Path) -> str:
    """The experiment's id; PerflowError if its files are kept elsewhere, since MLflow's paths are absolute."""
    location = Path(os.path.abspath(store)).as_uri()  # the same from every study's home
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        return client.create_experiment(EXPERIMENT, location)
    if found.artifact_location != location:
        raise PerflowError(
            f"{database}: keeps its files in {found.artifact_location}, not in {location}; "
            f"delete {database} (it is rebuilt from results/) and run again"
        )
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _key(study: dict[str, Any]) -> str:
    """What tells studies apart: two homes may each have one of the same name."""
    return study["name"] if study["home"] == "." else f"{study['name']} ({study['home']})"


def _live(client: MlflowClient, experiment: str, study: str) -> dict[str, Run]:
    """The runs of a study that are not deleted, by their ids."""
    found: dict[str, Run] = {}
    token = None
    quote = '"' if "'" in study else "'"  # a home may hold either
    while True:
        runs = client.search_runs([experiment], f"tags.study = {quote}{study}{quote}", page_token=token)
        found |= {run.info.run_id: run for run in runs}
        token = runs.token
        if not token:
            return found


def _common_tags(study: str) -> dict[str, str]:
    state = checkout()
    commit = {"mlflow.source.git.commit": state.commit, "dirty": str(state.dirty).lower()} if state.commit else {}
    return {"study": study} | commit


def _bring(client: MlflowClient, experiment: str, record: Record, live: dict[str, Run], tags: dict[str, str]) -> str:
    """The id of a row's run, which is there and complete afterwards."""
    wanted = record.run(tags["study"])
    run = live.get(wanted) or _revived(client, wanted) or _create(client, experiment, record, wanted, tags)
    if "complete" not in run.data.tags:
        _fill(client, run, record)
    if run.data.tags.get("mlflow.parentRunId") != tags.get("mlflow.parentRunId"):
        client.set_tag(wanted, "mlflow.parentRunId", tags["mlflow.parentRunId"])
    return wanted


def _revived(client: MlflowClient, wanted: str) -> Run | None:
    """A run that was deleted, back again; None if there never was one."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(wanted)
    except MlflowException:
        return None
    client.restore_run(wanted)
    return run


def _create(client: MlflowClient, experiment: str, record: Record, wanted: str, tags: dict[str, str]) -> Run:
    """An empty run with the id ``wanted``. MLflow draws ids and takes none, so for this call it draws ours."""
    from mlflow.store.tracking import sqlalchemy_store

    own = {"row": record.key, "rule": _RULES[record.table], "spec": record.spec}
    start = _now() - round(1000 * record.seconds)
    with mock.patch.object(sqlalchemy_store, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=wanted))):
        run = client.create_run(experiment, start_time=start, tags=tags | own, run_name=record.name)
    if run.info.run_id != wanted:
        raise PerflowError(f"mlflow: this version does not take run ids; {record.key} got {run.info.run_id}")
    return run


def _fill(client: MlflowClient, run: Run, record: Record) -> None:
    """Log all of a record; what a run that was cut short already holds is the same, and is not logged twice."""
    wanted, end = run.info.run_id, run.info.start_time + round(1000 * record.seconds)
    from mlflow.entities import Metric, Param

    params = [Param(name, value[:_LONGEST]) for name, value in record.params.items()]
    metrics = [Metric(name, value, end, 0) for name, value in record.metrics.items()]
    metrics += [Metric(name, value, end, step) for name, value, step in record.curve]
    for first in range(0, len(params), _BATCH["params"]):
        client.log_batch(wanted, params=params[first : first + _BATCH["params"]])
    for first in range(0, len(metrics), _BATCH["metrics"]):
        client.log_batch(wanted, metrics=metrics[first : first + _BATCH["metrics"]])
    for place, path in record.files.items():
        client.log_artifact(wanted, str(path), str(Path(place).parent) if "/" in place else None)
    for place, text in record.texts.items():
        client.log_text(wanted, text, place)
    client.set_tag(wanted, "complete", "yes")  # last: a run that was cut short does not say so, and is filled again
    client.set_terminated(wanted, end_time=end)


def _now() -> int:
    import time

    return int(1000 * time.time())


def _study_record(study: dict[str, Any], results: Path) -> Record:
    """The parent: tables and params.yaml."""
    tables = ("main", "ablation", "comparisons", "compatibility")
    files = {f"tables/{name}.csv": results / "tables" / f"{name}.csv" for name in tables}
    params = {"seed": study["seed"], "extractor": study["extractor"], "teacher": study["teacher"]}
    params |= {"models": len(study["models"]), "trials": sum(len(model["trials"]) for model in study["models"])}
    spec = artifacts.sha256_bytes(study["params_text"].encode())
    return Record(
        "study", _key(study), spec, _flat(params), files=files | {"metrics.json": results / "metrics.json"},
        texts={"params.yaml": study["params_text"]},
    )  # fmt: skip


def _records(study: dict[str, Any], results: Path, tables: dict[str, list[dict]]) -> Iterator[Record]:
    models = {model["name"]: model for model in study["models"]}
    rows = [("bases", row["name"], row["spec"]) for row in study["bases"]]
    rows += [(table, row["name"], row["spec"]) for table in ("extractors", "adapters", "pairs") for row in study[table]]
    rows += [("students", name, model["model_spec"]) for name, model in models.items() if model["kind"] == "student"]
    for table, name, spec in rows:
        params = _flat(artifacts.read_spec(results / "specs" / table / f"{name}.json").row)
        metrics, seconds = _cost_metrics(tables["costs"], table, name)
        files = {}
        if table in ("bases", "students"):
            model = models[name]
            described = ("entry", "label", "windows", "starts", "ends", "guidance_mode")
            params |= _flat({key: model[key] for key in described if model.get(key) is not None})
            metrics |= _final_metrics(tables["rows"], name)
            files = _grids(model, results)
        yield Record(table, name, spec, params, metrics, _curve(tables["curves"], table, name), files, seconds=seconds)


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested mappings as ``a.b.c`` -> text; lists stay together."""
    if isinstance(value, dict):
        return {key: text for inner in value for key, text in _flat(value[inner], f"{name}.{inner}".strip(".")).items()}
    return {name: value if isinstance(value, str) else json.dumps(value)}


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise PerflowError(f"{path}: cannot be read ({error.strerror}); perflow collect writes it") from None


def _final_metrics(rows: list[dict[str, str]], model: str) -> dict[str, float]:
    """``<metric>/<trial>`` -> value as in rows.csv, and the ends of its interval, ``<metric>_low`` and ``_high``; of a
    solver that decides as it goes also ``nfe/<trial>``, the evaluations of a sample in the mean."""
    names = [column.removesuffix("_low") for column in rows[0] if column.endswith("_low")] if rows else []
    columns = [f"{name}{bound}" for name in names for bound in ("", "_low", "_high")]
    own = [row for row in rows if row["model"] == model]
    found = {f"{column}/{row['trial']}": float(row[column]) for row in own for column in columns if row[column]}
    return found | {f"nfe/{row['trial']}": float(row["nfe"]) for row in own if not int(row["steps"])}


def _cost_metrics(costs: list[dict[str, str]], table: str, name: str) -> tuple[dict[str, float], float]:
    """``cost/<stage>/<what>`` -> value for a row and for what was made of it, and the row's own seconds."""
    stages = (table, "samples", "evaluations") if table in ("bases", "students") else (table,)
    own = {row["table"]: row for row in costs if row["row"] == name and row["table"] in stages}
    found = {
        f"cost/{stage}/{column}": float(row[column]) for stage, row in own.items() for column in _COSTS if row[column]
    }
    return found, found.get(f"cost/{table}/seconds", 0.0)


def _curve(curves: list[dict[str, str]], table: str, name: str) -> list[tuple[str, float, int]]:
    """(``<phase>/<what>``, value, step) of a training."""
    return [
        (f"{row['phase']}/{column}", float(row[column]), int(row["step"]))
        for row in curves
        if row["table"] == table and row["row"] == name
        for column in _CURVE
        if row[column]
    ]


def _grids(model: dict[str, Any], results: Path) -> dict[str, Path]:
    """``samples/<trial>.png`` -> the picture of a trial."""
    folder = results / "samples" / model["name"]
    trials = artifacts.read_json(folder / "manifest.json")["trials"]
    return {f"samples/{trial['name']}.png": folder / trials[trial["name"]]["grid"]["file"] for trial in model["trials"]}
