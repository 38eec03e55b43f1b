"""Students that others taught: taken as they are, whatever layout they come in, and refused where they do not fit."""

import pytest
import torch

from perflow import artifacts, config, delta, lora
from perflow.config.load import read_yaml
from perflow.core.rng import generator, normal
from perflow.errors import PerflowError
from perflow.models import folder as pipeline_folder
from perflow.models import handle
from perflow.models.drawer import Drawer
from perflow.stages.export import export
from perflow.stages.take import take
from tests.stages.conftest import Study, grown
from tests.stand_ins import change, released

WORDS = ["a red handwritten seven", "a digit"]


@pytest.fixture
def taken(tiny, tiny_params, write_params):
    """Take released weights as the student ``eps-theirs-<label>-s0`` of the tiny study; returns study and handle."""

    def run(weights, held, windows=4, prediction="ddim_eps", path="straight", at=1.0, **source) -> tuple[Study, str]:
        steps = windows if path == "straight" else 2
        solver = "window" if path == "straight" else "lcm"
        tiny_params["students"] = {"theirs": {
            "label": "theirs", "bases": ["eps"], "windows": windows, "path": path, "prediction": prediction,
            "trials": {"solvers": [solver], "steps": [steps], "guidance": at},
            "source": {"weights": str(weights), "held": held} | source,
        }}  # fmt: skip
        study, name = grown(tiny, tiny_params, write_params), f"eps-theirs-k{windows}-s0"
        out = study.handle(name).with_name("ema.safetensors")
        take(study.spec("students", name), study.handle("eps"), out)
        export(
            study.spec("deltas", name), study.path("results/specs/students", f"{name}.json"), out, study.handle("eps"),
            out.with_name("delta.safetensors"),
        )  # fmt: skip
        return study, name

    return run


@pytest.fixture
def base(tiny):
    """The pipeline folder of the base."""
    return tiny.handle("eps").parent / "pipeline"


def weights_of(study, name):
    return handle.load(study.handle(name)).unet.state_dict()


@pytest.mark.parametrize("layout", sorted(lora.LAYOUTS))
def test_weights_a_delta_and_a_lora_of_full_rank_are_the_same_student(taken, base, tmp_path, layout):
    own, more = pipeline_folder.tensors(base / "unet"), change(base, seed=3, matrices=True)
    pairs, spectrum = lora.cut(more, 10_000)
    files = {"weights": {name: own[name] + more[name] for name in own}, "delta": more,
             "lora": lora.LAYOUTS[layout](pairs)}  # fmt: skip
    assert spectrum.dropped_share == 0
    for held, tensors in files.items():
        artifacts.write_tensors(tmp_path / f"{held}.safetensors", tensors, {})
        got = weights_of(*taken(tmp_path / f"{held}.safetensors", held))
        for key, value in files["weights"].items():
            torch.testing.assert_close(got[key], value, rtol=0, atol=2e-6)


def test_a_velocity_towards_data_draws_what_its_own_pipeline_draws(taken, base, tmp_path):
    """InstaFlow's pipeline: one Euler step x + v(x, timestep 1000) from noise, v from noise to data."""
    weights = released(base, "weights", tmp_path / "w.safetensors", seed=5)
    study, name = taken(weights, "weights", windows=1, prediction="velocity", towards_data=True)
    drawer = Drawer.load(study.handle(name), "cpu", WORDS, 1, seed=0)
    trial = study.study.samples[name].trials[0]
    noise = drawer.noise(trial.stream)
    got = drawer.draw(trial, noise)

    unet = handle.load(study.handle("eps")).unet
    unet.load_state_dict(artifacts.read_tensors(weights)[0])
    text = handle.load(study.handle("eps")).base.embed(WORDS)["text"]
    with torch.no_grad():
        want = noise + unet(noise, torch.full((len(WORDS),), 1000.0), text, return_dict=False)[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert (got - noise).abs().max() > 1e-2


def test_a_lora_is_drawn_without_windows_as_diffusers_draws_it(taken, base, tmp_path):
    from diffusers import LCMScheduler, StableDiffusionPipeline

    file = released(base, "lora", tmp_path / "l.safetensors", seed=7)
    study, name = taken(file, "lora", windows=50, path="diffusion")
    drawer = Drawer.load(study.handle(name), "cpu", WORDS, 1, seed=0)
    trial = study.study.samples[name].trials[0].model_copy(update={"steps": 1})  # nothing is renoised on the way
    noise = normal(drawer.model.base.latent_shape, 0, "noise-0", range(len(WORDS)))
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipe.load_lora_weights(str(file))
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=50)
    pipe.set_progress_bar_config(disable=True)
    want = pipe(WORDS, num_inference_steps=1, guidance_scale=1.0, latents=noise.clone(), output_type="latent").images
    torch.testing.assert_close(drawer.draw(trial, noise), want, rtol=1e-3, atol=1e-3)


def told(base, path, size=32, held="weights"):
    """A released network that is told its guidance, as LCM's own: random weights, its matrix among them."""
    file = released(base, held, path, seed=11)
    tensors = artifacts.read_tensors(file)[0]
    channels = tensors["time_embedding.linear_1.weight"].shape[1]
    matrix = 0.3 * torch.randn(channels, size, generator=torch.Generator().manual_seed(1))
    artifacts.write_tensors(path, tensors | {delta.ADDED: matrix}, {})
    return path


@pytest.mark.parametrize("held", ["weights", "delta"])
@pytest.mark.parametrize("guidance", [3.0, 8.5])
def test_a_network_that_is_told_its_guidance_draws_what_its_own_pipeline_draws(taken, base, tmp_path, guidance, held):
    """diffusers' LatentConsistencyModelPipeline, at two guidances of its range; one evaluation a step."""
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel

    file = told(base, tmp_path / "l.safetensors", held=held)
    study, name = taken(file, held, windows=50, path="diffusion", at=guidance, guidance=[2.0, 14.0])
    drawer = Drawer.load(study.handle(name), "cpu", WORDS, 1, seed=0)
    (trial,) = study.study.samples[name].trials
    assert (trial.steps, trial.nfe, drawer.model.told) == (2, 2, {"size": 32, "least": 2.0, "most": 14.0})
    assert study.study.students[name].told.size is None
    header = artifacts.read_header(study.handle(name).with_name("delta.safetensors"))
    assert header["told"] == drawer.model.told
    got = drawer.draw(trial, noise := drawer.noise(trial.stream))

    plain = handle.load(study.handle("eps")).unet
    unet = UNet2DConditionModel.from_config({**plain.config, "time_cond_proj_dim": 32}).eval()
    weights = artifacts.read_tensors(file)[0]
    if held == "delta":
        weights = {key: weights[key] + plain.state_dict().get(key, 0) for key in weights}
    unet.load_state_dict(weights)
    pipe = LatentConsistencyModelPipeline.from_pretrained(
        base, unet=unet, safety_checker=None, requires_safety_checker=False
    )
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=50)
    pipe.set_progress_bar_config(disable=True)
    asked = []
    unet.register_forward_hook(lambda *_: asked.append(1))
    want = pipe(
        WORDS, num_inference_steps=2, guidance_scale=guidance, latents=noise.clone(), output_type="latent",
        generator=[generator(0, "renoise-0", i) for i in range(len(WORDS))],
    ).images  # fmt: skip
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert len(asked) == trial.nfe
    other = drawer.draw(trial.model_copy(update={"guidance": 12.0}), noise)
    assert (other - got).abs().max() > 1e-2


def test_a_network_that_is_told_its_guidance_and_its_row_go_together(taken, base, tmp_path):
    lcm = {"windows": 50, "path": "diffusion", "at": 4.0}
    file = told(base, tmp_path / "l.safetensors")
    with pytest.raises(PerflowError, match=r"its network is told its guidance .*say its range as source.guidance"):
        taken(file, "weights", **lcm)
    plain = released(base, "weights", tmp_path / "p.safetensors", seed=1)
    with pytest.raises(PerflowError, match="p.safetensors: its network is told no guidance .*source.guidance out"):
        taken(plain, "weights", guidance=[2.0, 14.0], **lcm)
    for shape in ((8, 31), (8, 2), (9, 32), (8,)):
        matrix = artifacts.read_tensors(file)[0] | {delta.ADDED: torch.zeros(shape)}
        artifacts.write_tensors(tmp_path / "s.safetensors", matrix, {})
        with pytest.raises(PerflowError, match=r"s.safetensors: '.*cond_proj.weight' has shape .*even number"):
            taken(tmp_path / "s.safetensors", "weights", guidance=[2.0, 14.0], **lcm)
    with pytest.raises(PerflowError, match="is told its guidance, from 2 to 14; got 1.0"):
        taken(file, "weights", guidance=[2.0, 14.0], **(lcm | {"at": 1.0}))
    with pytest.raises(PerflowError, match="source.guidance: no LoRA holds how a network is told its guidance"):
        taken(file, "lora", guidance=[2.0, 14.0], **lcm)
    with pytest.raises(PerflowError, match=r"guidance is one number, or \[least, most\] of a range; got \[14.0, 2.0\]"):
        taken(file, "weights", guidance=[14.0, 2.0], **lcm)


def test_what_does_not_fit_is_refused_in_one_line(taken, base, tmp_path):
    file = released(base, "delta", tmp_path / "d.safetensors", seed=1)
    with pytest.raises(PerflowError, match="d.safetensors: no file of a LoRA's tensors"):
        taken(file, "lora")
    with pytest.raises(PerflowError, match="sha256 is not the row's, 000000000000"):
        taken(file, "delta", sha256="0" * 64)
    tensors = artifacts.read_tensors(file)[0]
    artifacts.write_tensors(file, {name: value for name, value in tensors.items() if "conv_in" not in name}, {})
    with pytest.raises(PerflowError, match="d.safetensors: does not fit the base: it lacks 'conv_in"):
        taken(file, "delta")
    artifacts.write_tensors(file, {"lora_te_x.lora_up.weight": torch.zeros(1)}, {})
    with pytest.raises(PerflowError, match="changes a text model too"):
        taken(file, "lora")


def test_published_timesteps_are_told_and_ours_are_not(taken, base, tmp_path):
    file = released(base, "delta", tmp_path / "d.safetensors", seed=1)
    for offset in (0, -1):
        study, name = taken(file, "delta", timestep_offset=offset)
        assert handle.load(study.handle(name)).flow.timestep_offset == offset
    assert delta.identity(weights_of(study, name)) == artifacts.read_json(study.handle(name))["sha256"]


@pytest.mark.parametrize(("more", "said"), [
    ({"pairs": "fixed"}, "a student with a source was taught elsewhere and has no pairs"),
    ({"seeds": 2}, "has no seeds"),
    ({"source": None}, "pairs: missing"),
    ({"source": {"weights": "w", "held": "delta", "towards_data": True}}, "towards_data is of a velocity"),
])  # fmt: skip
def test_a_student_is_taught_here_or_elsewhere(root, write_params, more, said):
    params, _ = read_yaml(root / "workflow/studies/tiny.yaml")
    source = {"weights": "w", "held": "delta"}
    params["students"]["theirs"] = {
        "label": "theirs", "bases": ["eps"], "windows": 2, "path": "straight", "prediction": "ddim_eps",
        "trials": {"solvers": ["window"], "steps": [2], "guidance": 1.0}, "source": source,
    } | more  # fmt: skip
    with pytest.raises(PerflowError, match=said):
        config.load(write_params(params))
