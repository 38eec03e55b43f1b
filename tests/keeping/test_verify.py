"""Whatever happens to a file of a study, verify names it; and it cries for nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perflow import artifacts, config, keeping, record
from tests.keeping.conftest import BASE, PAIRS, STUDENT

STUDENTS = f"results/students/{STUDENT}"


def found(made, study: config.Study | None = None) -> dict[str, tuple[str, str]]:
    """Artifact -> its state and its lines, for all that is not ok."""
    verified = list(keeping.verify(study or made.study, Path(".")))
    assert len({finding.artifact for finding in verified}) == len(verified)
    return {f.artifact: (f.state, "\n".join(f.lines)) for f in verified if f.state != "ok"}


def test_a_study_as_it_was_made_is_ok(made):
    verified = list(keeping.verify(made.study, Path(".")))
    assert [finding.state for finding in verified] == ["ok"] * 17
    assert not any(finding.lines for finding in verified)


FILES = {
    **{
        f"data/digits-{split}/{name}": f"splits/digits-{split}"
        for split in ("base", "extractor", "reference")
        for name in (f"{split}.parquet", "manifest.json", "cost.json")
    },
    "results/prompts/digits/manifest.json": "prompts/digits",
    "results/prompts/digits/cost.json": "prompts/digits",
    "results/latents/eps/manifest.json": "latents/eps",
    "results/latents/eps/cost.json": "latents/eps",
    "results/latents/eps/latents-00000.safetensors": "latents/eps",
    "results/latents/eps/conditions.safetensors": "latents/eps",
    BASE: "bases/eps",
    "results/bases/eps/curve.jsonl": "bases/eps",
    "results/bases/eps/cost.json": "bases/eps",
    "results/bases/eps/pipeline/model_index.json": "bases/eps",
    "results/bases/eps/pipeline/tokenizer/tokenizer.json": "bases/eps",
    "results/bases/eps/pipeline/unet/diffusion_pytorch_model.safetensors": "bases/eps",
    "results/bases/eps/pipeline/vae/config.json": "bases/eps",
    "results/extractors/cnn/extractor.safetensors": "extractors/cnn",
    "results/extractors/cnn/curve.jsonl": "extractors/cnn",
    "results/extractors/cnn/cost.json": "extractors/cnn",
    f"results/pairs/{PAIRS}/manifest.json": f"pairs/{PAIRS}",
    f"results/pairs/{PAIRS}/shard-00001.safetensors": f"pairs/{PAIRS}",
    f"results/pairs/{PAIRS}/conditions.safetensors": f"pairs/{PAIRS}",
    f"{STUDENTS}/ema.safetensors": f"students/{STUDENT}",
    f"{STUDENTS}/curve.jsonl": f"students/{STUDENT}",
    f"{STUDENTS}/cost.json": f"students/{STUDENT}",
    f"{STUDENTS}/delta.safetensors": f"deltas/{STUDENT}",
    f"{STUDENTS}/model.json": f"deltas/{STUDENT}",
    f"{STUDENTS}/export.cost.json": f"deltas/{STUDENT}",
    "results/samples/eps/manifest.json": "samples/eps",
    "results/samples/eps/ddim-2.zip": "samples/eps",
    "results/samples/eps/teacher.safetensors": "samples/eps",
    "results/samples/eps/teacher-2.png": "samples/eps",
    f"results/samples/{STUDENT}/flow.safetensors": f"samples/{STUDENT}",
    "results/metrics/eps.json": "evaluations/eps",
    "results/metrics/eps.cost.json": "evaluations/eps",
    "results/tables/main.csv": "tables",
    "results/tables/record.json": "tables",
    "results/metrics.json": "tables",
    "results/specs/pairs/eps-fixed-k2.json": "specs",
    "results/specs/study.json": "specs",
}


def record_again(path: Path) -> None:
    """A record that is right about its outputs as they are now."""
    content = record.read(path)
    record.write(path, content["spec"], content["inputs"], record.outputs(path, content))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "flip": flip,
    "truncate": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "delete": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_kind_of_file_is_named_with_its_artifact(damage, made):
    study = made.study
    for file, artifact in FILES.items():
        path = Path(file)
        sound = path.read_bytes()
        DAMAGE[damage](path)
        wrong = found(made, study)
        assert wrong, file
        state, lines = wrong.pop(artifact)
        assert file in lines
        assert state == ("missing" if damage == "delete" else "stale" if artifact == "specs" else "altered"), file
        # A summary of the study that is another makes the tables stale; nothing else is drawn in.
        assert set(wrong) <= ({"tables"} if file.endswith("study.json") else set()), file
        path.write_bytes(sound)
    assert not found(made, study)


def test_the_list_above_has_every_kind_of_file(made):
    known = {(Path(file).parts[:2], Path(file).suffix) for file in FILES}
    for path in [*Path("data").rglob("*"), *Path("results").rglob("*")]:
        if path.is_file():
            assert (path.parts[:2], path.suffix) in known, path


def test_what_snakemake_does_not_miss_is_said_to_be_deleted(made):
    for file, manifest in {
        f"results/pairs/{PAIRS}/shard-00000.safetensors": f"results/pairs/{PAIRS}/manifest.json",
        "results/samples/eps/teacher.zip": "results/samples/eps/manifest.json",
        "results/bases/eps/pipeline/scheduler/scheduler_config.json": BASE,
        "data/digits-reference/reference.parquet": "data/digits-reference/manifest.json",
    }.items():
        Path(file).unlink()
        assert any(f"{file}: missing; delete {manifest} and run again" in lines for _, lines in found(made).values())


def test_another_spec_is_stale_and_only_for_its_readers(made):
    made.edit("groups: 4", "groups: 5")
    wrong = found(made)
    assert {artifact: state for artifact, (state, _) in wrong.items()} == {
        "specs": "stale", "evaluations/eps": "stale", f"evaluations/{STUDENT}": "stale", "tables": "stale",
    }  # fmt: skip
    assert "of another spec" in wrong["evaluations/eps"][1]


def test_other_inputs_are_stale(made):
    """Pairs made anew by hand, with a sound record of their own, are not those the student learnt from."""
    manifest = Path(f"results/pairs/{PAIRS}/manifest.json")
    artifacts.write_json(manifest, artifacts.read_json(manifest) | {"note": "made anew"})
    record_again(manifest.with_name("cost.json"))
    wrong = found(made)
    assert {artifact: state for artifact, (state, _) in wrong.items()} == {f"students/{STUDENT}": "stale"}
    assert f"made from another {manifest}" in wrong[f"students/{STUDENT}"][1]


def test_hashes_inside_files_are_computed_too(made):
    """A forger who also corrects every outer hash is still told by the tensors."""
    path = Path(f"{STUDENTS}/ema.safetensors")
    tensors, header = artifacts.read_tensors(path)
    name = min(tensors)
    artifacts.write_tensors(path, tensors | {name: tensors[name] + 1}, header)
    record_again(path.with_name("cost.json"))
    assert "its tensors do not match its header" in found(made)[f"students/{STUDENT}"][1]

    handle = Path(BASE)
    artifacts.write_json(handle, artifacts.read_json(handle) | {"sha256": "0" * 64})
    record_again(handle.with_name("cost.json"))
    assert "its network does not have its sha256" in found(made)["bases/eps"][1]


def test_the_verb_lists_counts_and_fails(made):
    def run() -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "perflow", "verify"], capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "17 artifacts: 17 ok"
    Path("results/samples/eps/teacher.zip").unlink()
    done = run()
    assert done.returncode == 1
    assert "missing  samples/eps" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1] == "17 artifacts: 16 ok, 1 missing"
    assert done.stderr == ""


def test_the_quiet_verb_says_the_first_thing_that_is_wrong_in_one_line(made):
    verify = [sys.executable, "-m", "perflow", "verify", "--quiet"]
    done = subprocess.run(verify, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
    for name in (f"{STUDENTS}/delta.safetensors", "results/tables/main.csv"):
        Path(name).write_bytes(b"x")
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"perflow: {STUDENTS}/delta.safetensors: altered or truncated")
    assert done.stderr.endswith("(2 of 17 artifacts; perflow verify lists them)\n")
