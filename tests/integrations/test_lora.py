"""A LoRA is the best cut of its rank, says what it leaves out, and is what diffusers loads."""

import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from perflow import artifacts, lora
from perflow.cli import main
from perflow.errors import PerflowError
from perflow.integrations import PeRFlowScheduler
from tests.integrations.conftest import draw


def matrix(pair):
    return (pair.up.flatten(1) @ pair.down.flatten(1)).double()


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([(6, 9), (9, 6), (5, 2, 3, 3), (7, 3, 1, 1), (1, 4), (8, 8)]),
    st.integers(1, 4),
    st.integers(0, 9),
    st.sampled_from([1e-6, 1.0, 1e3]),
)
def test_a_cut_is_the_truncated_svd_and_its_error_is_the_tail(shape, rank, seed, scale):
    value = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    pairs, spectrum = lora.cut({"a.weight": value}, rank)
    flat = value.double().flatten(1)
    u, s, vh = torch.linalg.svd(flat, full_matrices=False)
    torch.testing.assert_close(spectrum.squares["a"].sqrt(), s, rtol=1e-6, atol=1e-7 * float(s[0]))
    r = min(rank, len(s))
    best = (u[:, :r] * s[:r]) @ vh[:r]
    torch.testing.assert_close(matrix(pairs["a"]), best, rtol=1e-5, atol=1e-5 * float(s[0]))
    error = (flat - matrix(pairs["a"])).norm() / flat.norm()
    assert spectrum.error(rank) == pytest.approx(float(error), abs=1e-6)
    down, up = pairs["a"]
    assert down.shape == (r, *shape[1:])
    assert up.shape == (shape[0], r, *[1] * (len(shape) - 2))
    assert spectrum.numbers(rank) == down.numel() + up.numel()


def test_full_rank_gives_a_rank_deficient_and_an_all_zero_matrix_back():
    thin = torch.outer(torch.arange(1.0, 7.0), torch.ones(4))
    pairs, spectrum = lora.cut({"thin.weight": thin, "zero.weight": torch.zeros(3, 5)}, 5)
    torch.testing.assert_close(matrix(pairs["thin"]), thin.double(), rtol=1e-6, atol=1e-6)
    assert not matrix(pairs["zero"]).any()
    assert spectrum.full == 4
    assert spectrum.error(1) == pytest.approx(0, abs=1e-7)


def test_the_error_counts_what_is_dropped_and_falls_with_the_rank(on_disk):
    change, _ = artifacts.read_tensors(on_disk().delta)
    pairs, spectrum = lora.cut(change, 3)
    kept = {
        f"{module}.weight": matrix(pair).reshape(change[f"{module}.weight"].shape) for module, pair in pairs.items()
    }
    assert kept.keys() | spectrum.dropped.keys() == change.keys()
    assert all(change[name].ndim == 1 for name in spectrum.dropped)
    missed = sum(float((value - kept.get(name, 0.0)).double().square().sum()) for name, value in change.items())
    whole = sum(float(value.double().square().sum()) for value in change.values())
    assert spectrum.error(3) == pytest.approx((missed / whole) ** 0.5, rel=1e-5)
    errors = [spectrum.error(rank) for rank in range(spectrum.full + 1)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(1)
    assert errors[-1] == pytest.approx(spectrum.dropped_share)


def test_kohya_names_hold_the_same_matrices_by_comfyuis_rule(on_disk):
    """ComfyUI: the UNet's diffusers name with '_' for '.', weight += alpha / rank · up @ down."""
    change, _ = artifacts.read_tensors(on_disk().delta)
    pairs, _ = lora.cut(change, 2)
    kohya, ours = lora.kohya_names(pairs), lora.diffusers_names(pairs)
    seen = set()
    for name in change:
        key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        if f"{key}.lora_up.weight" not in kohya:
            continue
        up, down = kohya[f"{key}.lora_up.weight"], kohya[f"{key}.lora_down.weight"]
        scale = float(kohya[f"{key}.alpha"]) / down.shape[0]
        stem = f"unet.{name.removesuffix('.weight')}"
        assert torch.equal(scale * up, ours[f"{stem}.lora_B.weight"])
        assert torch.equal(down, ours[f"{stem}.lora_A.weight"])
        seen.add(key)
    assert len(seen) == len(pairs) == len(kohya) / 3 == len(ours) / 2


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("rank", [1, 4, None])
def test_diffusers_loads_it_and_draws_what_the_cut_weights_draw(on_disk, tmp_path, rank, layout):
    """Against weights to which the cut matrices are added by hand; at full rank these are the student's matrices."""
    pytest.importorskip("peft")
    files = on_disk()
    change, _ = artifacts.read_tensors(files.delta)
    full = lora.cut(change)[1].full
    rank = rank or full
    out = tmp_path / "lora.safetensors"
    call = ["lora", str(files.delta), "--rank", str(rank), "--layout", layout, "--out", str(out)]
    assert CliRunner().invoke(main, call).exit_code == 0

    by_hand, loaded = (StableDiffusionPipeline.from_pretrained(files.base) for _ in range(2))
    pairs, spectrum = lora.cut(change, rank)
    weights = by_hand.unet.state_dict()
    for module, pair in pairs.items():
        value = change[f"{module}.weight"] if rank == full else matrix(pair).reshape(change[f"{module}.weight"].shape)
        weights[f"{module}.weight"] += value
    loaded.load_lora_weights(str(tmp_path), weight_name=out.name)
    for pipe in (by_hand, loaded):
        pipe.scheduler = PeRFlowScheduler(windows=files.header["edges"], path="diffusion", timestep_offset=-1)
    torch.testing.assert_close(draw(loaded), draw(by_hand), rtol=0, atol=2e-4)
    plain = StableDiffusionPipeline.from_pretrained(files.base)
    plain.scheduler = loaded.scheduler
    assert float((draw(plain) - draw(loaded)).abs().max()) > 1e-3


def test_the_command_reports_errors_and_refuses_half_an_order(on_disk, tmp_path):
    files = on_disk()
    said = CliRunner().invoke(main, ["lora", str(files.delta)]).output
    spectrum = lora.cut(artifacts.read_tensors(files.delta)[0])[1]
    assert f"{spectrum.full:6d}  {spectrum.error(spectrum.full):14.4f}" in said
    assert f"dropped: {len(spectrum.dropped)} tensors" in said
    for call, message in (
        (["--rank", "4"], "--rank and --out go together"),
        (
            ["--rank", "9999", "--out", str(tmp_path / "x.safetensors")],
            f"the largest rank of this delta is {spectrum.full}",
        ),
    ):
        done = CliRunner().invoke(main, ["lora", str(files.delta), *call])
        assert message in str(done.exception.code)
    assert not (tmp_path / "x").exists()
    with pytest.raises(PerflowError, match="no matrices"):
        lora.cut({"norm.weight": torch.ones(3)})


def test_the_file_says_what_it_is(on_disk, tmp_path):
    files = on_disk()
    out = tmp_path / "lora.safetensors"
    CliRunner().invoke(main, ["lora", str(files.delta), "--rank", "2", "--out", str(out)])
    header = artifacts.read_header(out)
    assert header["lora"]["rank"] == 2
    assert header["lora"]["relative_error"] == lora.cut(artifacts.read_tensors(files.delta)[0])[1].error(2)
    assert header["base"] == files.header["base"]
    assert header["edges"] == files.header["edges"]
