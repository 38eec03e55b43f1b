"""One prompt, one picture: what guidance leads away from, and what is computed at once."""

import io
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from perflow.cli import main
from perflow.images import png, tile
from perflow.models import handle
from perflow.models.drawer import Drawer

PROMPT, NEGATIVE = "a red handwritten seven", "a blue handwritten three"


@pytest.fixture
def picture(tiny, tmp_path):
    """Draw by the verb; returns its result and the picture's bytes, None if there is none."""

    def run(*options):
        out = tmp_path / "drawn.png"
        out.unlink(missing_ok=True)
        command = [
            "sample",
            "--prompt",
            PROMPT,
            "--model",
            str(tiny.handle("eps")),
            "--out",
            str(out),
            "--device",
            "cpu",
        ]
        done = CliRunner().invoke(main, [*command, "--steps", "2", *options])
        return done, out.read_bytes() if out.exists() else None

    return run


def test_a_negative_prompt_is_what_guidance_leads_away_from(picture, tiny):
    from perflow.config.resolve import scheduler_of
    from perflow.config.rows import Trial

    _, drawn = picture("--negative", NEGATIVE)
    model = handle.load(tiny.handle("eps"))
    model.base.chunk = 1
    drawer = Drawer.of(model, "cpu", [PROMPT], 1, 0, [NEGATIVE])
    scheduler = scheduler_of("dpmpp_2m")
    trial = Trial(name="x", solver="dpmpp_2m", steps=2, guidance=4.5, nfe=4, scheduler=scheduler)
    assert drawn == png(tile(drawer.model.base.decode(drawer.draw(trial, drawer.noise(0))), 1, 1))
    plain = picture()[1]
    assert drawn != plain == picture("--negative", "")[1]


def test_a_negative_prompt_that_nothing_hears_is_refused(picture):
    done, drawn = picture("--negative", NEGATIVE, "--guidance", "1")
    assert (done.exit_code, drawn) == (1, None)
    assert "--negative: not heard at guidance 1" in done.output
    done = CliRunner().invoke(main, ["sample", "--negative", NEGATIVE, "--spec", "x", "--out", "y"])
    assert "--negative goes with --prompt" in done.output


def test_a_picture_is_computed_alone_and_does_not_depend_on_how_many_are_drawn(picture, tiny, monkeypatch):
    """No row pads a chunk: the network is told the prompt and no prompt, of as many as ``--batch`` at once."""
    called = []
    says = handle.Model.says

    def watched(self, *arguments):
        self.unet.register_forward_pre_hook(lambda network, given: called.append(len(given[0])))
        return says(self, *arguments)

    monkeypatch.setattr(handle.Model, "says", watched)
    one, three, together = (
        pixels(picture(*options)[1]) for options in ((), ("--count", "3"), ("--count", "3", "--batch", "2"))
    )
    assert set(called) == {2, 4}
    side = one.shape[1]
    assert np.array_equal(three[:, :side], one)
    assert np.abs(together.astype(int) - three).max() <= 1


def test_what_a_row_computes_at_once_is_not_asked():
    done = CliRunner().invoke(main, ["sample", "--batch", "2", "--spec", "x", "--out", "y"])
    assert "--batch and --compile go with --prompt" in done.output


@pytest.fixture
def no_compiler():
    """torch looks for a compiler that is not there; what it compiled before, it forgets."""
    torch.compiler.reset()
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        yield
    torch.compiler.reset()


def test_without_a_compiler_compiling_is_refused_in_one_line_before_anything_is_read(
    picture, tiny, tmp_path, no_compiler, monkeypatch
):
    """The real error of torch, in words; the weights are damaged, and nobody got as far as to find out."""
    monkeypatch.delenv("CXX", raising=False)
    tiny.handle("eps").with_name("pipeline").joinpath("unet/diffusion_pytorch_model.safetensors").write_bytes(b"")
    lacks = r"--compile: torch cannot compile for cpu here \(InvalidCxxCompiler: .*no-such-compiler.*\); it needs "
    lacks += r"a C\+\+ compiler, looked for by CXX=\(not set\) and PATH=.*; install it, .*or leave --compile .*out$"
    done, drawn = picture("--compile")
    assert re.fullmatch(f"perflow: {lacks}", done.output.strip())
    assert drawn is None
    out, log = tmp_path / "new/manifest.json", tmp_path / "cache.log"
    given = {
        "spec": tiny.path("results/specs/pairs/eps-fixed-k2.json"), "teacher": tiny.handle("eps"),
        "latents": tiny.latents("eps"), "out": out, "log": log, "device": "cpu",
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)  # where the state of a row that was begun would lie
    done = CliRunner().invoke(main, ["cache", "--compile", *(f"--{name}={value}" for name, value in given.items())])
    assert re.search(f"perflow: cache eps-fixed-k2: {lacks}", done.output.strip())
    assert re.search(f"cache eps-fixed-k2: {lacks}", log.read_text().strip())
    assert not list(out.parent.iterdir())


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))
