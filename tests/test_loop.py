"""The training loop: exact resume, real warm-up, an average in fp32, and no silent divergence."""

import math
import re

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

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


def shared_loss(model: nn.Module, step: int, share: slice) -> torch.Tensor:
    """``loss`` of a share of its four items."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))[share]
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


def finite(loop: Loop) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in (*loop.model.parameters(), *loop.ema.parameters()))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_divergence_is_named_and_the_sound_state_is_kept(poison, tmp_path):
    def poisoned(model: nn.Module, step: int) -> torch.Tensor:
        return loss(model, step) * (poison if step == 11 else 1.0)

    whole = Loop(network(), OPTIM, tmp_path / "whole")
    list(whole.run(loss))
    state = tmp_path / "state"
    with pytest.raises(PerflowError, match=r"train: loss .* by step 12 of 23; the state of step 11 is kept in \S+;"):
        list(Loop(network(), OPTIM, state, save_seconds=0).run(poisoned))
    kept = Loop(network(), OPTIM, state)
    assert kept.done == 11
    assert finite(kept)
    list(kept.run(loss))  # nothing of the poison is in the average: it ends as if there had been none
    assert artifacts.tensor_hash(kept.ema.state_dict()) == artifacts.tensor_hash(whole.ema.state_dict())


def test_divergence_before_anything_was_kept_says_so(tmp_path):
    with pytest.raises(PerflowError, match=r"by step 1 of 23; no state was saved before; lower lr"):
        list(Loop(network(), OPTIM, tmp_path).run(lambda model, step: loss(model, step) * math.nan))
    assert not (tmp_path / "train.safetensors").exists()


def test_a_gradient_that_is_not_finite_is_noticed_though_the_loss_is(tmp_path):
    def rooted(model: nn.Module, step: int) -> torch.Tensor:
        value = loss(model, step)
        return value + (model[0].weight * 0).abs().sum().sqrt() if step == 7 else value  # d sqrt(x) at 0

    with pytest.raises(PerflowError, match=r"gradient norm (nan|inf) by step 8 of 23; the state of step 7 is kept"):
        list(Loop(network(), OPTIM, tmp_path, save_seconds=0).run(rooted))


@pytest.mark.parametrize("last", [False, True], ids=["on the way", "in the last step"])
def test_weights_that_overflow_are_never_kept_nor_handed_on(last, tmp_path):
    """An update can overflow where loss and gradient were finite: that shows only in the weights."""
    poisoned_at = OPTIM.steps - 1 if last else 11

    def overflowing(model: nn.Module, step: int) -> torch.Tensor:
        if step == poisoned_at:
            for group in loop.optimizer.param_groups:
                group["lr"] = 1e39
        return loss(model, step)

    loop = Loop(network(), OPTIM, tmp_path, save_seconds=0)
    seen = []
    said = rf"train: largest weight (inf|nan) by step {poisoned_at + 1} of 23; the state of step {poisoned_at} is kept"
    with pytest.raises(PerflowError, match=said):
        seen.extend(loop.run(overflowing))
    assert seen[-1].step == poisoned_at
    assert finite(Loop(network(), OPTIM, tmp_path))


def test_an_average_that_overflowed_is_never_kept(tmp_path):
    def watched(model: nn.Module, step: int) -> torch.Tensor:
        if step == 11:
            loop.ema[0].weight.data.fill_(torch.finfo(torch.float32).max)
            loop.ema[0].weight.data.mul_(2)
        return loss(model, step)

    loop = Loop(network(), OPTIM, tmp_path, save_seconds=0)
    with pytest.raises(PerflowError, match=r"largest weight (inf|nan) by step 12 of 23; the state of step 11 is kept"):
        list(loop.run(watched))
    assert finite(Loop(network(), OPTIM, tmp_path))


@pytest.mark.parametrize("first", [60, 62])
def test_a_long_training_notices_within_a_two_hundredth_of_its_steps(first, tmp_path):
    def poisoned(model: nn.Module, step: int) -> torch.Tensor:
        return loss(model, step) * (math.nan if step == first else 1.0)

    loop = Loop(network(), OPTIM.model_copy(update={"steps": 600}), tmp_path, save_seconds=0)
    with pytest.raises(PerflowError, match=r"by step \d+ of 600") as caught:
        list(loop.run(poisoned))
    noticed, kept = (int(found) for found in re.findall(r"step (\d+)", str(caught.value)))
    assert first < noticed <= first + 3
    assert first - 3 < kept <= first
    assert finite(Loop(network(), OPTIM, tmp_path))


def test_the_norm_that_is_logged_is_the_gradients_before_it_is_clipped(tmp_path):
    expected = []

    def watched(model: nn.Module, step: int) -> torch.Tensor:
        value = 100 * loss(model, step)
        gradients = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        expected.append(float(torch.cat([gradient.reshape(-1) for gradient in gradients]).norm()))
        return value

    loop = Loop(network(), OPTIM, tmp_path)
    yielded = [step.grad_norm for step in loop.run(watched)]
    assert yielded == pytest.approx(expected, rel=1e-5)
    assert [point["grad_norm"] for point in loop.curve] == yielded
    assert max(expected) > OPTIM.clip


def test_an_altered_state_is_named_and_not_resumed(tmp_path):
    list(Loop(network(), OPTIM, tmp_path).run(loss))
    path = tmp_path / "train.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(PerflowError, match=r"train\.safetensors: altered since it was made"):
        Loop(network(), OPTIM, tmp_path)
    artifacts.write_tensors(path, {"model.0.weight": torch.zeros(1)}, {})
    with pytest.raises(PerflowError, match=r"train\.safetensors: not the state of a training"):
        Loop(network(), OPTIM, tmp_path)


def test_the_loss_falls(tmp_path):
    steps = list(Loop(network(), OPTIM.model_copy(update={"steps": 300}), tmp_path).run(loss))
    assert steps[-1].loss < 0.2 * steps[0].loss
    assert [step.step for step in steps] == sorted({step.step for step in steps})


def test_a_batch_in_passes_is_the_batch(tmp_path):
    """Four passes of one item: the same sums in another order."""
    whole, cut = Loop(network(), OPTIM, tmp_path / "whole"), Loop(network(), OPTIM, tmp_path / "cut")
    list(whole.run(loss))
    list(cut.run_shared(shared_loss, 4, accumulate=4))
    for name, value in whole.ema.state_dict().items():
        torch.testing.assert_close(cut.ema.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    assert 0 < cut.activation_bytes < whole.activation_bytes
    with pytest.raises(PerflowError, match=r"a batch of 4 cannot be cut into 1 \(processes\) x 3 \(accumulate\)"):
        list(Loop(network(), OPTIM, tmp_path / "third").run_shared(shared_loss, 4, accumulate=3))


class Waits(TorchDispatchMode):
    """Counts what waits for a device: a number read from a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*args, **(kwargs or {}))


def test_the_device_is_waited_for_when_it_is_looked_at_and_not_every_step(tmp_path):
    """As often in 400 steps as in 40, points of the curve included."""
    counts = []
    for steps in (40, 400):
        loop = Loop(network(), OPTIM.model_copy(update={"steps": steps}), tmp_path / str(steps))
        loop.look_seconds = 1e9  # as on a device, where looking is waiting
        with Waits() as waits:
            assert len(list(loop.run(loss))) >= 40
        counts.append(waits.count)
    assert counts[0] == counts[1]


@pytest.fixture
def other_precision():
    """accelerate allows a process one precision."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("other_precision")
def test_in_bf16_weights_average_and_moments_stay_fp32(tmp_path):
    kinds = []

    def watched(model: nn.Module, step: int) -> torch.Tensor:
        model[0].register_forward_hook(lambda module, given, said: kinds.append(said.dtype))
        return loss(model, step)

    loop = Loop(network(), OPTIM.model_copy(update={"steps": 2, "precision": "bf16"}), tmp_path)
    list(loop.run(watched))
    assert set(kinds) == {torch.bfloat16}
    moments = [value for state in loop.optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in (*loop.model.parameters(), *loop.ema.parameters(), *moments)} == {torch.float32}
