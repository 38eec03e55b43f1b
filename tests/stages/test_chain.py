"""A student taught by a student: its pairs are its teacher's own samples, its weights begin where they should."""

import pytest
import torch

from perflow import artifacts
from perflow.config.plan import pair_evaluations
from perflow.config.rows import Trial
from perflow.errors import PerflowError
from perflow.models import handle
from perflow.models.drawer import Drawer
from perflow.pairs import PairCache
from perflow.stages import train as stage
from perflow.stages.cache import cache
from tests.stages.conftest import cost, finish, grown, teach

FIRST, SECOND = "eps-perflow-k2-s0", "eps-half-k1-s0"


@pytest.fixture
def chain(tiny, tiny_params, write_params):
    """perflow with 2 windows teaches half with 1, which starts from it and hardly moves."""
    tiny_params["pairs"]["own"] = {
        "teacher": "perflow-k2", "solver": "window", "starts": "trajectory", "guidance": 1.0, "steps": 4, "count": 40,
    }  # fmt: skip
    tiny_params["students"]["half"] = {
        "label": "half", "pairs": "own", "windows": 1, "path": "straight", "prediction": "ddim_eps",
        "start": "perflow-k2", "method": "distill", "bases": ["eps"], "training": {"lr": 1e-9, "weight_decay": 0.0},
        "trials": {"solvers": ["window"], "steps": [1], "guidance": 1.0},
    }  # fmt: skip
    return grown(tiny, tiny_params, write_params)


def weights(model):
    return handle.load(model).unet.state_dict()


def apart(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_a_chain_runs_through_the_stages(chain):
    teach(chain, SECOND)
    first, second, base = (weights(chain.handle(name)) for name in (FIRST, SECOND, "eps"))
    assert apart(second, first) < 1e-5 < 1e-4 < apart(second, base)  # it began at the first student, not at the base
    header = artifacts.read_tensors(chain.handle(SECOND).with_name("delta.safetensors"))[1]
    assert header["base"]["sha256"] == handle.load(chain.handle("eps")).sha256
    assert header["row"]["start"] == FIRST
    manifest = artifacts.read_json(chain.pairs("eps-own-k1"))
    assert manifest["teacher"] == {"name": FIRST, "sha256": handle.load(chain.handle(FIRST)).sha256}
    assert manifest["base"]["name"] == "eps"


def test_pairs_of_a_student_are_its_own_samples_and_cost_what_is_planned(chain):
    """From a pair's start, the teacher drawn in as many steps ends where the pair ends."""
    spec, manifest = chain.spec("pairs", "eps-own-k1"), chain.pairs("eps-own-k1")
    counted = cost(cache(spec, chain.handle(FIRST), chain.latents("eps"), manifest))
    found = PairCache.load(manifest)
    drawer = Drawer.load(chain.handle(FIRST), "cpu", [""] * len(found), 1, 0)
    object.__setattr__(drawer, "conditions", found.told(found.caption.long()))
    trial = Trial(name="t", solver="window", steps=4, guidance=1.0, nfe=4)
    torch.testing.assert_close(drawer.draw(trial, found.start[:]), found.end[:], rtol=1e-4, atol=1e-5)
    assert counted["teacher_evaluations"] == pair_evaluations(chain.study, "eps-own-k1")
    assert counted["teacher_evaluations"] == 40 * 4
    assert artifacts.read_json(manifest)["teacher_evaluations"] == 160


def test_another_first_link_is_another_input_to_the_later_ones(chain, tmp_path):
    """What the rules compare are files: a student trained otherwise has another handle, and its pairs other bytes."""
    before = chain.handle(FIRST).read_bytes()
    spec = chain.spec("pairs", "eps-own-k1")
    finish(cache(spec, chain.handle(FIRST), chain.latents("eps"), tmp_path / "before/manifest.json"))
    folder, row = chain.handle(FIRST).parent, chain.path("results/specs/students", f"{FIRST}.json")
    for path in folder.iterdir():
        path.unlink()
    content = artifacts.read_json(row)
    content["row"]["method"]["penalty"] = "huber"
    artifacts.write_json(row, content)
    teach(chain, FIRST)
    assert chain.handle(FIRST).read_bytes() != before
    finish(cache(spec, chain.handle(FIRST), chain.latents("eps"), tmp_path / "after/manifest.json"))
    ends = [PairCache.load(tmp_path / name / "manifest.json").end[:] for name in ("before", "after")]
    assert not torch.equal(*ends)


def test_a_start_on_another_base_than_the_pairs_is_refused(chain, tmp_path):
    finish(
        cache(chain.spec("pairs", "eps-own-k1"), chain.handle(FIRST), chain.latents("eps"), chain.pairs("eps-own-k1"))
    )
    with pytest.raises(PerflowError, match=r"made on another base \(eps.* of the model 'v-distilled-k2-s0'"):
        finish(
            stage.train(
                chain.spec("students", SECOND),
                chain.handle("v-distilled-k2-s0"),
                chain.pairs("eps-own-k1"),
                tmp_path / "x",
                tmp_path / "s",
            )  # fmt: skip
        )
