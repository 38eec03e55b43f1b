"""ΔW = student - base: made, added, and refused where it does not belong.

A delta's header says all that is needed to use it: the base (name, revision, hash of tensor content),
window edges, path, prediction, timestep convention, guidance, and the row it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from perflow import artifacts
from perflow.errors import PerflowError

Tensors = Mapping[str, Tensor]


ADDED = "time_embedding.cond_proj.weight"
"""What a network that is told its guidance has and its base lacks (the header's ``told``); there it counts as 0."""


def subtract(student: Tensors, base: Tensors, told: bool = False) -> dict[str, Tensor]:
    """student - base, tensor by tensor, in fp32; ``told``: the student's network is told its guidance."""
    base = _with_added(base, student) if told else base
    check_shapes("student", student, base)
    return {name: student[name].float() - base[name].float() for name in base}


def add(
    base: Tensors, delta: Tensors, header: Mapping[str, Any], other_base: bool = False, name: str = "delta"
) -> dict[str, Tensor]:
    """base + delta in fp32, in the base's dtypes.

    PerflowError if names or shapes differ, always; and if the base is not the one the delta was made
    from (by ``identity``), unless ``other_base``. Of a network that is told its guidance the sum has one tensor more
    than ``base``, ``ADDED``.
    """
    whole = _with_added(base, delta) if header.get("told") else base
    check_shapes(name, delta, whole)
    made_for = header.get("base")
    wanted = made_for.get("sha256") if isinstance(made_for, Mapping) else None
    if wanted is None and not other_base:
        raise PerflowError(f"{name}: its header names no base; add it with other_base=True if you know that it fits")
    if not other_base and wanted != (found := identity(base)):
        types = ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in base.values()}))
        raise PerflowError(
            f"{name}: made for the base '{made_for.get('name')}' ({str(wanted)[:12]}), this is another one"
            f" ({found[:12]}, {types}; a base rounded to another type counts as another: load it as it was taught,"
            " add the delta, then cast); add it with other_base=True if that is meant"
        )
    return {key: (whole[key].float() + delta[key].float()).to(whole[key].dtype) for key in whole}


def _with_added(base: Tensors, other: Tensors) -> Tensors:
    """``base`` with zeros for ``ADDED`` as ``other`` has it, in the type of the layer it goes before."""
    if ADDED not in other or ADDED in base:
        return base
    like = base.get("time_embedding.linear_1.weight", other[ADDED])
    return {**base, ADDED: like.new_zeros(other[ADDED].shape)}


def identity(base: Tensors) -> str:
    """Which base this is: the hash of its tensors' values in fp32, whatever type holds them exactly."""
    return artifacts.tensor_hash({name: value.float() for name, value in base.items()})


def check_shapes(name: str, tensors: Tensors, base: Tensors) -> None:
    """PerflowError unless ``tensors`` have exactly the base's names and shapes."""
    missing, extra = base.keys() - tensors.keys(), tensors.keys() - base.keys()
    if extra == {ADDED}:
        raise PerflowError(
            f"{name}: its network is told its guidance ('{ADDED}'), and the base has no place for that; a delta says so"
            " in its header (told)"
        )
    if missing or extra:
        which = f"lacks '{min(missing)}'" if missing else f"has '{min(extra)}', which the base lacks"
        raise PerflowError(f"{name}: does not fit the base: it {which} ({len(missing)} missing, {len(extra)} extra)")
    for key in base:
        if tensors[key].shape != base[key].shape:
            raise PerflowError(
                f"{name}: '{key}' has shape {tuple(tensors[key].shape)}, the base has {tuple(base[key].shape)}"
            )
