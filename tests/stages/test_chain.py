"""A student taught by a student: its pairs are its teacher's own samples, its weights begin where they should."""

import pytest
import torch

from perflow import artifacts, config
from perflow.config.plan import pair_evaluations
from perflow.config.rows import Trial
from perflow.core.fields import base_field, follow
from perflow.core.guidance import guided
from perflow.core.solvers import SOLVERS
from perflow.errors import PerflowError
from perflow.models import handle
from perflow.models.drawer import Drawer
from perflow.pairs import PairCache
from perflow.stages import train as stage
from perflow.stages.cache import cache
from tests.stages.conftest import cost, drawing, finish, grown, teach

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


@pytest.fixture
def refreshed(tiny, tiny_params, write_params):
    """Pairs that start where perflow with 2 windows comes by, and a student of them whose starts are compared."""
    tiny_params["pairs"]["again"] = tiny_params["pairs"]["fixed"] | {"starts": "student", "student": "perflow"}
    tiny_params["students"]["again"] = tiny_params["students"]["perflow"] | {"windows": 2, "pairs": "again"}
    tiny_params["sampling"]["flow"]["starts"] = 16
    return grown(tiny, tiny_params, write_params)


def test_windows_start_where_the_student_comes_by_and_end_where_the_teacher_goes(refreshed):
    spec, manifest = refreshed.spec("pairs", "eps-again-k2"), refreshed.pairs("eps-again-k2")
    counted = cost(
        cache(spec, refreshed.handle("eps"), refreshed.latents("eps"), manifest, student=refreshed.handle(FIRST))
    )
    found = PairCache.load(manifest)
    assert counted["teacher_evaluations"] == pair_evaluations(refreshed.study, "eps-again-k2")
    assert counted["student_passes"] == len(found) // 2
    per = len(found) // 2
    drawer = Drawer.load(refreshed.handle(FIRST), "cpu", [""] * per, 1, 0)
    object.__setattr__(drawer, "conditions", found.told(found.caption[:per].long()))
    flow = drawer.model.flow
    network = lambda x, t: drawer.model.base.network(drawer.model.unet)(x, t, drawer.conditions)  # noqa: E731
    with torch.inference_mode():
        walked = follow(network, flow, found.start[:per], flow.windows.steps(2)[:1])
    torch.testing.assert_close(found.start[per:], walked, rtol=1e-4, atol=1e-5)
    assert abs(float(found.start[:per].std()) - 1) < 0.05  # from pure noise, as it is drawn
    base = handle.load(refreshed.handle("eps"))
    with torch.inference_mode():
        for k, times in ((0, [1, 0.75, 0.5]), (1, [0.5, 0.25, 0])):
            rows = slice(k * per, (k + 1) * per)
            part = guided(
                base.base.network(), found.told(found.caption[rows].long()), found.told(torch.tensor([0])), 4.5
            )
            field = base_field(part, base.base.schedule, base.base.prediction)
            end = SOLVERS["ddim"](field, found.start[rows], times, base.base.schedule)
            torch.testing.assert_close(found.end[rows], end, rtol=1e-3, atol=1e-3)


def test_starts_need_the_student_and_the_student_its_starts(refreshed, tiny_params, write_params):
    spec, manifest = refreshed.spec("pairs", "eps-again-k2"), refreshed.pairs("eps-again-k2")
    with pytest.raises(PerflowError, match="no --student given"):
        finish(cache(spec, refreshed.handle("eps"), refreshed.latents("eps"), manifest))
    tiny_params["pairs"]["again"]["student"] = None
    with pytest.raises(PerflowError, match="starts: student goes with student"):
        config.load(write_params(tiny_params))
    tiny_params["pairs"]["again"]["student"] = "again"
    with pytest.raises(PerflowError, match="learns from itself"):
        config.load(write_params(tiny_params))


def test_own_states_are_compared_with_the_starts_that_were_taught(refreshed):
    teach(refreshed, "eps-again-k2-s0", student=refreshed.handle(FIRST))
    out, again = refreshed.path("results/samples/eps-again-k2-s0/manifest.json"), "eps-again-k2-s0"
    finish(drawing(refreshed, again, "eps", out, pairs=refreshed.pairs("eps-again-k2")))  # fmt: skip
    states = artifacts.tensors_beside(out, artifacts.read_json(out)["flow"]["starts"], "own", "taught")
    found, taught = PairCache.load(refreshed.pairs("eps-again-k2")), states["taught"]
    assert states["own"].shape == taught.shape == (16, 2, *found.start.shape[1:])
    for k in (0, 1):
        there = found.start[found.k == k]
        assert all(any(torch.equal(row, other) for other in there) for row in taught[:, k])
