"""The training loop: exact resume, real warm-up, an average in fp32, and no silent divergence."""

import math

import pytest
import torch
from torch import nn

from perflow import artifacts
from perflow.config.rows import Optim
from perflow.errors import PerflowError
from perflow.loop import Loop, ema_decay, learning_rate

OPTIM = Optim(steps=23, batch=4, lr=0.05, warmup=5, ema=0.9)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def loss(model: nn.Module, step: int) -> torch.Tensor:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def test_killed_at_any_step_it_ends_with_the_same_bytes(tmp_path):
    whole = Loop(network(), OPTIM, tmp_path / "whole", save_seconds=0)
    list(whole.run(loss))
    for stop in (1, 7, 22):
        state = tmp_path / f"stopped-{stop}"
        for step in Loop(network(), OPTIM, state, save_seconds=0).run(loss):
            if step.step == stop:
                break  # the generator is dropped here, as a killed process would drop it
        again = Loop(network(), OPTIM, state, save_seconds=0)
        assert 0 < again.done <= stop
        list(again.run(loss))
        assert artifacts.tensor_hash(again.ema.state_dict()) == artifacts.tensor_hash(whole.ema.state_dict())
        assert again.curve == whole.curve


def test_a_finished_loop_run_again_does_nothing_and_says_the_same(tmp_path):
    first = Loop(network(), OPTIM, tmp_path)
    list(first.run(loss))
    second = Loop(network(), OPTIM, tmp_path)
    assert list(second.run(loss)) == []
    assert artifacts.tensor_hash(second.ema.state_dict()) == artifacts.tensor_hash(first.ema.state_dict())
    assert second.curve == first.curve


def test_warm_up_really_warms_up_and_the_rate_used_is_the_rate_reported(tmp_path):
    used = []

    def watched(model: nn.Module, step: int) -> torch.Tensor:
        used.append(loop.optimizer.param_groups[0]["lr"])
        return loss(model, step)

    loop = Loop(network(), OPTIM, tmp_path)
    reported = [step.lr for step in loop.run(watched)]
    assert used == [learning_rate(OPTIM, step) for step in range(OPTIM.steps)]
    assert reported == used
    assert used[0] == pytest.approx(OPTIM.lr / OPTIM.warmup)
    assert used[:5] == sorted(used[:5])
    assert used[4] == OPTIM.lr
    assert used[5:] == sorted(used[5:], reverse=True)
    assert used[-1] < 0.02 * OPTIM.lr


def test_the_average_is_the_recursion_it_says(tmp_path):
    path: list[torch.Tensor] = []

    def watched(model: nn.Module, step: int) -> torch.Tensor:
        path.append(model[0].weight.detach().clone())
        return loss(model, step)

    loop = Loop(network(), OPTIM, tmp_path)
    list(loop.run(watched))
    weights = [*path[1:], loop.model[0].weight.detach()]
    average = path[0].double()
    for step, weight in enumerate(weights):
        decay = ema_decay(OPTIM, step)
        average = decay * average + (1 - decay) * weight.double()
    torch.testing.assert_close(loop.ema[0].weight.double(), average, rtol=1e-5, atol=1e-6)
    assert ema_decay(OPTIM, 10**6) == OPTIM.ema


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_divergence_is_named_and_the_sound_state_is_kept(poison, tmp_path):
    def poisoned(model: nn.Module, step: int) -> torch.Tensor:
        return loss(model, step) * (poison if step == 11 else 1.0)

    with pytest.raises(PerflowError, match=r"train: loss .* by step 12 of 23; the state of step 11 is kept"):
        list(Loop(network(), OPTIM, tmp_path, save_seconds=0).run(poisoned))
    kept = Loop(network(), OPTIM, tmp_path)
    assert kept.done == 11
    assert all(bool(torch.isfinite(value).all()) for value in (*kept.model.parameters(), *kept.ema.parameters()))


def test_the_loss_falls(tmp_path):
    steps = list(Loop(network(), OPTIM.model_copy(update={"steps": 300}), tmp_path).run(loss))
    assert steps[-1].loss < 0.2 * steps[0].loss
    assert [step.step for step in steps] == sorted({step.step for step in steps})
