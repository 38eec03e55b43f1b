"""What all tests share: the root of the repository, studies as dictionaries, one torch thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings

from perflow.config.load import _Loader, read_yaml

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]

# The same examples every time, and no clock: a busy machine must not fail a law.
settings.register_profile("perflow", deadline=None, derandomize=True)
# pytest --hypothesis-profile campaign: new examples, many of them (minutes).
settings.register_profile(
    "campaign", deadline=None, max_examples=6000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("perflow")


class Dumper(yaml.SafeDumper):
    """Quotes the strings that the project's YAML would read as numbers."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump_params(params: dict) -> str:
    """A study as the text of its file."""
    return yaml.dump(params, Dumper=Dumper, sort_keys=False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def tiny_params() -> dict:
    """The tiny study as a dictionary that a test may change."""
    return read_yaml(ROOT / "workflow/studies/tiny.yaml")[0]


@pytest.fixture
def write_params(tmp_path):
    """Write a dictionary or a text as params.yaml; returns its path."""

    def write(params: dict | str) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(params if isinstance(params, str) else dump_params(params))
        return path

    return write
