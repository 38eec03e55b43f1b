"""A pipeline of the user's own draws a study's prompts: image by image what diffusers draws, and no other pipelines."""

import diffusers
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from perflow import artifacts
from perflow.cli import main
from perflow.core.rng import generator
from perflow.errors import PerflowError
from perflow.stages.depict import depict
from tests.tiny_pipelines import pixel

TEXTS = ["a red digit", "a blue digit", ""]


@pytest.fixture
def against(tiny):
    """The manifest of a base's samples, as far as its prompts."""
    path = tiny.path("results/samples/eps/manifest.json")
    artifacts.write_json(path, {
        "model": "eps", "prompts": [{"text": text} for text in TEXTS], "negatives": ["a green digit"], "per_prompt": 6,
        "trials": {}, "flow": None,
    })  # fmt: skip
    return path


def test_every_image_is_the_pipelines_for_its_prompt_and_its_noise(tiny, against, tmp_path):
    folder, out = tiny.handle("eps").with_name("pipeline"), tmp_path / "drawn"
    said = depict(folder, against, out, 2, 4.5, seed=7)
    assert said == {
        "path": str(folder), "class": "StableDiffusionPipeline", "scheduler": "DDIMScheduler", "steps": 2,
        "guidance": 4.5, "seed": 7,
    }  # fmt: skip
    files = sorted(out.iterdir())
    assert [file.name for file in files] == [f"{i:05d}.png" for i in range(18)]
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    for i in (0, 5, 6, 17):
        alone = pipe(TEXTS[i // 6], negative_prompt="a green digit", num_inference_steps=2, guidance_scale=4.5,
                     generator=generator(7, "depict", i)).images[0]  # fmt: skip
        apart = np.abs(np.asarray(alone).astype(int) - np.asarray(Image.open(files[i])).astype(int))
        assert apart.max() <= 1
    with pytest.raises(PerflowError, match="is there already"):
        depict(folder, against, out, 2, 4.5)


def test_what_is_no_pipeline_with_prompts_is_one_line(against, tmp_path):
    folder = pixel(tmp_path / "ddpm")
    with pytest.raises(PerflowError, match="DDPMPipeline is told no prompt"):
        depict(folder, against, tmp_path / "drawn", None, None)
    artifacts.write_json(folder / "model_index.json", {"_class_name": "Mine"})
    with pytest.raises(PerflowError, match="'Mine' is none of diffusers"):
        depict(folder, against, tmp_path / "drawn", None, None)
    artifacts.write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    with pytest.raises(PerflowError, match="cannot be loaded as StableDiffusionPipeline"):
        depict(folder, against, tmp_path / "drawn", None, None)
    assert not (tmp_path / "drawn").exists()


def test_options_of_pipelines_are_for_pipelines(tiny, against, tmp_path):
    folder = tiny.handle("eps").with_name("pipeline")
    for arguments, said in (
        ([str(tmp_path), "--steps", "2"], "no diffusers pipeline; --images, --steps, --guidance and --seed"),
        ([str(folder)], "a diffusers pipeline; give --images"),
    ):
        done = CliRunner().invoke(main, ["measure", *arguments, "--against", str(against)])
        assert done.exit_code == 1
        assert said in done.output
