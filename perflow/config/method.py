"""A student's method: its options read strictly, checked, and written out."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from perflow.config import rows
from perflow.config.load import known, shown
from perflow.errors import PerflowError
from perflow.methods import METHODS, configuration


def method_row(place: str, recipe: rows.StudentRecipe) -> dict[str, Any]:
    """The method with every option written out; PerflowError naming the known methods and options, an option's valid
    values, or what the method needs."""
    given = dict(recipe.method)
    name = known("method", f"{place}.method", str(given.pop("name", "(none)")), METHODS)
    kind = configuration(name)
    types, valid = get_type_hints(kind), [field.name for field in fields(kind)]
    for option in given:
        if option not in valid:
            raise PerflowError(
                f"{place}.method.{option}: unknown option of {name}; known: {', '.join(valid) or 'none'}"
            )
    options = {option: _strict(f"{place}.method.{option}", types[option], value) for option, value in given.items()}
    try:
        made = kind(**options)
    except ValueError as error:
        raise PerflowError(f"{place}.method: {error}") from None
    for field, wanted in kind.needs.items():
        if getattr(recipe, field) != wanted:
            raise PerflowError(f"{place}.{field}: the method {name} needs {wanted}; got {getattr(recipe, field)!r}")
    written = {option: getattr(made, option) for option in valid}
    return {"name": name} | {option: value for option, value in written.items() if value is not None}


def _strict(place: str, kind: Any, value: Any) -> Any:
    """``value`` if it is of the type ``kind``, a whole number also as another number; a text is none, nor is true."""
    try:
        return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        valid = " or ".join(each["msg"].removeprefix("Input should be ") for each in error.errors())
        raise PerflowError(f"{place}: input should be {valid}; got {shown(value)}") from None
