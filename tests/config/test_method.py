"""Options of methods are read strictly: what is not of an option's type is one line, and nothing is made to fit."""

import pytest

from perflow import config
from perflow.errors import PerflowError

NUMBER, TEXT, PENALTY = "a valid number", "a valid string", "'mse' or 'huber'"
POSITIONS, WEIGHTING = "'uniform' or a valid integer", "'uniform', 'endpoint' or 'velocity'"
BAD = [
    ("piecewise_reflow", "power", "3", NUMBER),
    ("piecewise_reflow", "power", True, NUMBER),
    ("piecewise_reflow", "power", None, NUMBER),
    ("piecewise_reflow", "power", [3.0], NUMBER),
    ("piecewise_reflow", "positions", True, POSITIONS),
    ("piecewise_reflow", "positions", "8", POSITIONS),
    ("piecewise_reflow", "positions", 8.0, POSITIONS),
    ("piecewise_reflow", "positions", None, POSITIONS),
    ("piecewise_reflow", "weighting", "Uniform", WEIGHTING),
    ("piecewise_reflow", "weighting", 1, WEIGHTING),
    ("piecewise_reflow", "penalty", None, PENALTY),
    ("piecewise_reflow", "penalty", {"huber": 1}, PENALTY),
    ("consistency", "penalty", True, PENALTY),
    ("distill", "weight", True, NUMBER),
    ("distill", "weight", "1", NUMBER),
    ("distill", "perceptual", 3, TEXT),
    ("distill", "perceptual", True, TEXT),
]


@pytest.mark.parametrize(("name", "option", "value", "valid"), BAD)
def test_a_value_of_another_type_is_one_line(name, option, value, valid, tiny_params, write_params):
    tiny_params["students"]["perflow"]["method"] = {"name": name, option: value}
    path = write_params(tiny_params)
    with pytest.raises(PerflowError) as caught:
        config.load(path)
    place = f"{path}: students.perflow.method.{option}"
    assert str(caught.value) == f"{place}: input should be {valid}; got {value!r}"


def test_a_whole_number_is_a_number_and_defaults_are_written_out(tiny_params, write_params):
    tiny_params["students"]["perflow"]["method"] = {"name": "piecewise_reflow", "power": 3, "positions": 4}
    method = config.load(write_params(tiny_params)).students["eps-perflow-k2-s0"].method
    assert method == {
        "name": "piecewise_reflow", "positions": 4, "weighting": "uniform", "power": 3.0, "penalty": "mse",
    }  # fmt: skip
    assert [type(method[name]) for name in ("positions", "power")] == [int, float]
