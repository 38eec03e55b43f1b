"""Whatever stands in params.yaml, it is a study with a plan, or one line: no other exception, no second line.

``pytest tests/config/test_fuzz.py --hypothesis-profile campaign`` tries thousands of new ones.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perflow import config
from perflow.config.load import read_yaml
from perflow.errors import PerflowError
from tests.conftest import ROOT, dump_params
from tests.fuzzing import mutate

STUDIES = [ROOT / "workflow/studies/tiny.yaml", ROOT / "params.yaml"]
PARAMS, TEXTS = zip(*map(read_yaml, STUDIES), strict=True)


def check(text: str, path: Path) -> None:
    """``text`` is a study, whose plan then runs, or it is refused in one line that begins with the file."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    refusal = f"{path}: "
    try:
        assert "total:" in config.plan(config.load(path))
    except PerflowError as error:
        refusal = str(error)
    assert refusal.startswith(str(path))
    assert refusal.isprintable()
    assert len(refusal) < 1200


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """The file that every example overwrites."""
    return tmp_path_factory.mktemp("fuzz") / "params.yaml"


@given(st.data())
def test_an_edited_study_is_a_study_or_one_line(path, data):
    params = copy.deepcopy(data.draw(st.sampled_from(PARAMS)))
    for _ in range(data.draw(st.integers(1, 3))):
        if params:
            mutate(params, data.draw)
    check(dump_params(params), path)


PIECES = [
    "", "\t", ":", "- ", "[", "{", "}", "&a ", "*a", "!!python/object ", "!!binary ", "<<: ", "\x00", "\ufeff", "%",
    "|", "#", "? ", "0x" + "f" * 4000, "9" * 5000, "1e999", ".inf", "[" * 400, "x: " * 30, "2020-01-01", "0o7", "1:30",
]  # fmt: skip


@given(st.data())
def test_corrupted_text_is_a_study_or_one_line(path, data):
    text = data.draw(st.sampled_from(TEXTS))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.sampled_from([0, 1, 1, 2, 7, 40, 400]))
        piece = data.draw(st.one_of(st.sampled_from(PIECES), st.just(text[start:end] * 2), st.text(max_size=3)))
        text = text[:start] + piece + text[end:]
    check(text, path)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "text", [LAUGHS, "a: &a [*a]\n", "a: &a {b: *a}\n", "[" * 5000, "{a: " * 5000, "? [a]\n: b\n", "- " * 5000],
    ids=["exponential", "a list in itself", "a mapping in itself", "deep", "deep mapping", "list as key", "deep list"],
)  # fmt: skip
def test_what_yaml_allows_and_a_study_does_not_is_one_line(text, path):
    check(text, path)


def test_expanding_aliases_are_refused_at_once_and_modest_ones_work(root, path):
    path.write_text(LAUGHS)
    with pytest.raises(PerflowError, match="its aliases expand to more than 100,000 values"):
        config.load(path)
    tiny = (root / "workflow/studies/tiny.yaml").read_text()
    shared = tiny.replace(
        "words: {steps: 10, batch: 32, lr: 3e-3}", "words: &words {steps: 10, batch: 32, lr: 3e-3}", 1
    )
    path.write_text(shared.replace("words: {steps: 10, batch: 32, lr: 3e-3}", "words: *words"))
    assert config.load(path).bases == config.load(root / "workflow/studies/tiny.yaml").bases
