"""Points on the plane: mixtures of Gaussians and two moons. Point i of a split is a function of (seed, split, i)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from perflow.core import distributions


@dataclass(frozen=True)
class Points:
    """``counts`` maps splits to numbers of points; they have no pixels, so ``resolution`` says nothing here."""

    resolution: int
    counts: Mapping[str, int]
    seed: int

    name: ClassVar[str]
    """Of :data:`perflow.core.distributions.DISTRIBUTIONS`."""

    def rows(self, split: str, items: range | None = None) -> Iterator[dict[str, Any]]:
        """Points [2], all or those of ``items``, with captions that say nothing."""
        found = distributions.draw(self.name, self.seed, f"plane-{split}", items or range(self.counts[split]))
        return ({"point": point, "text": ""} for point in found.tolist())

    def captions(self, split: str) -> Iterator[dict[str, Any]]:
        """The one that says nothing."""
        return iter([{"text": ""}])

    def attributes(self) -> dict[str, list[str]]:
        """None."""
        return {}

    def words(self, split: str) -> list[str]:
        """None."""
        return []

    def about(self, split: str) -> dict[str, Any]:
        """Nothing: a point is a function of the spec."""
        return {}


class Triangle(Points):
    """Three Gaussians."""

    name = "triangle"


class TriangleFlipped(Points):
    """The same, head over: straight lines from one to the other cross."""

    name = "triangle_flipped"


class Ring(Points):
    """Eight Gaussians on a circle."""

    name = "ring"


class Moons(Points):
    """Two half circles."""

    name = "moons"
