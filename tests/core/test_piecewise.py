"""A student's flow: paths, meanings, steps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perflow.core.fields import base_field, student_field
from perflow.core.piecewise import PATHS, WINDOW_PREDICTIONS, PiecewiseFlow
from perflow.core.prediction import PREDICTIONS, from_epsilon
from perflow.core.schedule import Schedule
from perflow.core.solvers import SOLVERS
from perflow.core.windows import Windows
from perflow.errors import PerflowError

SD = Schedule.scaled_linear()
ZERO_SNR = Schedule(torch.cat([SD.alphas_cumprod[:-1], torch.zeros(1)]))


@st.composite
def windows(draw) -> Windows:
    """Equal or explicit windows, none shorter than 1/50."""
    if draw(st.booleans()):
        return Windows.equal(draw(st.integers(1, 12)))
    inner = draw(st.lists(st.integers(1, 49), max_size=7, unique=True))
    return Windows((1, *(edge / 50 for edge in sorted(inner, reverse=True)), 0))


flows = st.builds(
    PiecewiseFlow,
    schedule=st.just(SD),
    windows=windows(),
    path=st.sampled_from(list(PATHS)),
    prediction=st.sampled_from(list(WINDOW_PREDICTIONS)),
)
positions = st.lists(st.floats(0, 0.999), max_size=5, unique=True).map(lambda u: [0.0, *sorted(u), 1.0])


def ends(flow, dtype=torch.float64):
    """Random ends of every window, one an item: [K, 3, 4]."""
    start, end = torch.randn(2, len(flow.windows), 3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return start, end, torch.arange(len(flow.windows))


@given(flows)
def test_the_path_runs_from_start_to_end(flow):
    start, end, k = ends(flow)
    torch.testing.assert_close(flow.interpolate(start, end, k, torch.zeros(len(k))), start)
    torch.testing.assert_close(flow.interpolate(start, end, k, torch.ones(len(k))), end)
    near = flow.interpolate(start, end, k, torch.full((len(k),), 1 - 1e-9, dtype=torch.float64))
    torch.testing.assert_close(near, end, rtol=0, atol=1e-5)


@given(flows, positions)
@settings(max_examples=150)
def test_true_targets_keep_every_step_on_the_path(flow, positions):
    start, end, k = ends(flow)
    y = flow.target(start, end, k)
    x = start
    for u_from, u_to in zip(positions, positions[1:], strict=False):
        x = flow.step(x, y, k, u_from, u_to)
        on_path = flow.interpolate(start, end, k, torch.full((len(k),), u_to, dtype=torch.float64))
        torch.testing.assert_close(x, on_path, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(x, end, rtol=1e-7, atol=1e-7)


@given(flows)
@settings(max_examples=30)
def test_true_targets_land_on_the_end_in_fp32(flow):
    start, end, k = ends(flow, torch.float32)
    y = flow.target(start, end, k)
    got = flow.step(flow.step(start, y, k, 0, 0.5), y, k, 0.5, 1)
    torch.testing.assert_close(got, end, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", WINDOW_PREDICTIONS)
def test_many_items_at_once_are_each_item_alone(path, prediction):
    flow = PiecewiseFlow(SD, Windows((1, 0.7, 0.2, 0)), path, prediction)
    start, end, k = ends(flow, torch.float32)
    u, u_to = torch.tensor([0.0, 0.3, 0.9]), torch.tensor([0.2, 0.8, 1.0])
    x, y = flow.interpolate(start, end, k, u), flow.target(start, end, k)
    moved = flow.step(x, y, k, u, u_to)
    assert x.dtype == y.dtype == moved.dtype == torch.float32
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(flow.interpolate(start[one], end[one], i, u[i].item()), x[one])
        torch.testing.assert_close(flow.target(start[one], end[one], i), y[one])
        torch.testing.assert_close(flow.step(x[one], y[one], i, u[i].item(), u_to[i].item()), moved[one])


def test_half_precision_outputs_move_fp32_latents():
    flow = PiecewiseFlow(SD, Windows.equal(4))
    x = torch.randn(2, 3)
    assert flow.step(x, flow.output(x.bfloat16(), x, 0, 0.0), 0, 0.0, 1.0).dtype == torch.float32


# METHOD: Stable Diffusion's schedule in four windows, as computed from the published code
@pytest.mark.parametrize(
    ("k", "factor", "diff", "ddim"),
    [
        (0, 3.4858, -3.3393, -2.5064),
        (1, 2.2145, -1.9758, -1.3009),
        (2, 1.5596, -1.1969, -0.7558),
        (3, 1.2163, -0.6923, -0.6638),
    ],
)
def test_published_coefficients(k, factor, diff, ddim):
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for prediction, eta in (("diff_eps", diff), ("ddim_eps", ddim)):
        flow = PiecewiseFlow(SD, Windows.equal(4), prediction=prediction)
        assert 1 / flow.target(zero, one, k).item() == pytest.approx(eta, abs=6e-5)
        ratio = -flow.target(one, zero, k).item() / flow.target(zero, one, k).item()
        assert ratio == pytest.approx(factor, abs=6e-5)


@pytest.mark.parametrize("prediction", ["ddim_eps", "diff_eps"])
@pytest.mark.parametrize("u", [0.0, 0.25, 0.8])
def test_a_step_follows_the_papers_velocity(prediction, u):
    """PeRFlow eq. 6: v = ((1-λ) z - η ε) / (t - t_e + λ t_s - λ t), then Euler along v."""
    flow = PiecewiseFlow(SD, Windows((1, 0.6, 0)), "straight", prediction)
    z, eps = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for k, (t_s, t_e) in enumerate([(1, 0.6), (0.6, 0.0)]):
        abar_s, abar_e = (SD.alphas_cumprod[max(round(1000 * t) - 1, 0)] for t in (t_s, t_e))
        lam = (abar_e / abar_s).sqrt()
        if prediction == "ddim_eps":
            eta = (1 - abar_e).sqrt() - (abar_e / abar_s * (1 - abar_s)).sqrt()
        else:
            eta = -(1 - abar_s / abar_e).sqrt() / (abar_s / abar_e).sqrt()
        t = t_s + u * (t_e - t_s)
        velocity = ((1 - lam) * z - eta * eps) / (t - t_e + lam * t_s - lam * t)
        u_to = u + 0.1
        euler = z + (t_s + u_to * (t_e - t_s) - t) * velocity
        torch.testing.assert_close(flow.step(z, eps, k, u, u_to), euler)


def test_velocity_is_euler_on_the_straight_path():
    flow = PiecewiseFlow(SD, Windows.equal(4), "straight", "velocity")
    z, velocity = torch.randn(2, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(flow.step(z, velocity, 1, 0.2, 0.6), z - 0.4 * 0.25 * velocity)


def network(x, timestep):
    """A network that is nonlinear and depends on its timestep, one an item."""
    return 0.8 * torch.tanh(1.3 * x) + 0.2 * torch.cos(timestep / 150)[:, None]


def sample(flow, x, steps, network=network):
    y = student_field(network, flow)
    for k, u_from, u_to in flow.windows.steps(steps):
        x = flow.step(x, y(x, k, u_from), k, u_from, u_to)
    return x


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("edges", [*(Windows.equal(n).edges for n in (1, 2, 4, 5, 8)), (1, 0.83, 0.4, 0.11, 0)])
def test_an_untaught_student_is_ddim_on_the_window_grid(path, edges):
    flow = PiecewiseFlow(SD, Windows(edges), path, "ddim_eps")
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    want = SOLVERS["ddim"](base_field(network, SD, "epsilon"), x, edges, SD)
    torch.testing.assert_close(sample(flow, x, len(edges) - 1), want, rtol=1e-5, atol=1e-5)


@given(windows(), st.integers(0, 9))
@settings(max_examples=40)
def test_on_the_diffusion_path_any_number_of_steps_is_ddim(windows, more):
    flow = PiecewiseFlow(SD, windows, "diffusion", "ddim_eps")
    steps = windows.steps(len(windows) + more)
    times = [flow.time(step.k, step.u_from).item() for step in steps] + [0.0]
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    want = SOLVERS["ddim"](base_field(network, SD, "epsilon"), x, times, SD)
    torch.testing.assert_close(sample(flow, x, len(steps)), want, rtol=2e-5, atol=2e-5)


def saying(base_prediction):
    """The same noise estimate, said in another prediction type."""

    def base(x, timestep):
        t = (timestep.double() + 1) / 1000
        return from_epsilon(base_prediction, network(x, timestep), x, SD.alpha(t), SD.sigma(t))

    return base


@pytest.mark.parametrize("base_prediction", PREDICTIONS)
@pytest.mark.parametrize("t", [0.9, torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)])
def test_a_base_is_read_as_epsilon(base_prediction, t):
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    want = base_field(network, SD, "epsilon")(x, t)
    torch.testing.assert_close(
        base_field(saying(base_prediction), SD, base_prediction)(x, t), want, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("base_prediction", PREDICTIONS)
def test_a_velocity_is_itself_whatever_the_base_said(base_prediction):
    flow = PiecewiseFlow(SD, Windows.equal(4), "straight", "velocity", base_prediction)
    x, raw = torch.randn(2, 3, 4)
    assert torch.equal(flow.output(raw, x, 1, 0.5), raw)


@pytest.mark.parametrize("base_prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_an_untaught_student_keeps_its_bases_prediction(base_prediction, path):
    """Whatever the base says, the student of the same noise estimate is the same DDIM sampler."""
    flow = PiecewiseFlow(SD, Windows.equal(4), path, "ddim_eps", base_prediction)
    x = torch.randn(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    want = SOLVERS["ddim"](base_field(network, SD, "epsilon"), x, flow.windows.edges, SD)
    torch.testing.assert_close(sample(flow, x, 4, saying(base_prediction)), want, rtol=1e-6, atol=1e-6)


def test_the_network_is_given_its_trained_timesteps():
    flow = PiecewiseFlow(SD, Windows.equal(4))
    assert flow.timestep(torch.arange(4), 0.0).tolist() == [999, 749, 499, 249]
    assert flow.timestep(1, 0.5) == 624
    seen = []
    student_field(lambda x, timestep: seen.append(timestep) or x, flow)(torch.zeros(3, 2), 1, 0.5)
    assert seen[0].tolist() == [624, 624, 624]
    assert seen[0].dtype == torch.float32


@given(flows)
def test_endpoint_weight_turns_an_error_of_y_into_one_of_the_end(flow):
    start, end, k = ends(flow)
    y = flow.target(start, end, k)
    off = (flow.step(start, y + 1e-3, k, 0.0, 1.0) - end).square().mean((1, 2)) / 1e-6
    weight = flow.endpoint_weight(k)
    torch.testing.assert_close(weight.double(), off / off.mean(), rtol=1e-4, atol=1e-7)
    assert weight.mean().item() == pytest.approx(1, rel=1e-5)
    assert flow.endpoint_weight(0) == weight[0]


@pytest.mark.parametrize("path", PATHS)
def test_zero_terminal_snr_stays_finite_with_velocity(path):
    flow = PiecewiseFlow(ZERO_SNR, Windows.equal(4), path, "velocity", "v")
    start, end, k = ends(flow)
    y = flow.target(start, end, k)
    middle = flow.interpolate(start, end, k, torch.full((4,), 0.5))
    torch.testing.assert_close(flow.step(start, y, k, 0.0, 0.5), middle)
    torch.testing.assert_close(flow.step(middle, y, k, 0.5, 1.0), end)
    assert middle.isfinite().all()


@pytest.mark.parametrize("prediction", ["ddim_eps", "diff_eps"])
def test_zero_terminal_snr_refuses_noise_predictions(prediction):
    with pytest.raises(PerflowError, match="use velocity"):
        PiecewiseFlow(ZERO_SNR, Windows.equal(4), "straight", prediction)


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("path", "straight, diffusion"),
        ("prediction", "ddim_eps, diff_eps, velocity"),
        ("base_prediction", "epsilon, v, x0"),
    ],
)
def test_unknown_names_list_the_known(field, known):
    with pytest.raises(PerflowError, match=f"{field}: no 'other'; there are {known}"):
        PiecewiseFlow(SD, Windows.equal(4), **{field: "other"})


def test_a_window_within_one_timestep_is_refused():
    with pytest.raises(PerflowError, match=r"\[0\.0005, 0\.0\] is less than a timestep"):
        PiecewiseFlow(SD, Windows((1, 0.5, 0.0005, 0)))


@given(flows, st.floats(0, 0.99))
@settings(max_examples=150)
def test_velocity_weight_turns_an_error_of_y_into_one_of_the_velocity(flow, u):
    """By a short step: the velocities of two answers differ by ∂v/∂y times their difference."""
    start, end, k = ends(flow)
    x, y = flow.interpolate(start, end, k, torch.full((len(k),), u, dtype=torch.float64)), flow.target(start, end, k)
    h = 1e-7
    apart = flow.step(x, y + 1, k, u, u + h) - flow.step(x, y, k, u, u + h)
    gain = (apart.mean((1, 2)) / (h * (flow.windows.end(k) - flow.windows.start(k)))) ** 2
    weight = flow.velocity_weight(k, u).double()
    # below t = 1/T nothing moves on the diffusion path; a step that begins within h of there says little
    sure = (flow.time(k, u) * 1000 - 1).abs() > 1e-3
    torch.testing.assert_close((weight / weight.max())[sure], (gain / gain.max())[sure], rtol=1e-3, atol=1e-6)


@given(flows)
@settings(max_examples=30)
def test_velocity_weight_has_mean_one_over_windows_and_positions(flow):
    k = torch.arange(len(flow.windows))[:, None]
    u = torch.rand(1, 20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert flow.velocity_weight(k, u).mean().item() == pytest.approx(1, rel=0.05)


def test_velocity_weight_is_the_papers_on_its_path_and_none_for_velocities():
    """(η/D)² with D = (1-u) + λu: PeRFlow eq. 6."""
    flow, u = PiecewiseFlow(SD, Windows.equal(4), "straight", "ddim_eps"), torch.linspace(0, 0.9, 7)
    lam, eta = 3.4858, -2.5064  # of the first window
    want = (eta / ((1 - u) + lam * u)) ** 2
    got = flow.velocity_weight(torch.tensor(0), u)
    torch.testing.assert_close(got / got[0], want / want[0], rtol=1e-4, atol=1e-6)
    velocity = PiecewiseFlow(SD, Windows.equal(4), "straight", "velocity")
    torch.testing.assert_close(velocity.velocity_weight(torch.tensor(2), u), torch.ones(7))


@pytest.mark.parametrize("prediction", ["velocity", "ddim_eps"])
def test_what_was_asked_for_a_number_is_as_for_a_tensor_and_serves_a_training(prediction):
    flow = PiecewiseFlow(Schedule.scaled_linear(), Windows.equal(4), prediction=prediction, base_prediction="v")
    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4, requires_grad=True)
    with torch.inference_mode():
        first = flow.step(x, flow.output(y, x, 1, 0.25), 1, 0.25, 0.5)
    again = flow.step(x, flow.output(y, x, 1, 0.25), 1, 0.25, 0.5)
    again.sum().backward()
    k, u, to = torch.tensor([1, 1]), torch.tensor([0.25, 0.25]).double(), torch.tensor([0.5, 0.5]).double()
    items = flow.step(x, flow.output(y, x, k, u), k, u, to)
    assert torch.equal(first, again.detach())
    torch.testing.assert_close(again, items)
    assert float(flow.timestep(1, 0.25)) == flow.timestep(k, u).tolist()[0] == 1000 * (0.75 - 0.25 / 4) - 1
    assert y.grad is not None
