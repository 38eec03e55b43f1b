"""One prompt, one picture: what guidance leads away from."""

import pytest
from click.testing import CliRunner

from perflow.cli import main
from perflow.images import png, tile
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
    drawer = Drawer.load(tiny.handle("eps"), "cpu", [PROMPT], 1, 0, [NEGATIVE])
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
