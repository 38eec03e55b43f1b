"""Where images and captions come from.

``DATASETS`` maps a source's name in params.yaml to its class as ``module:Class``; resolve it with
``pkgutil.resolve_name``. Importing this package imports neither torch nor scikit-learn.

A source is a frozen class built from the settings of its entry, ``counts`` (items by split) and ``seed``:

- ``rows(split, items)``, items of a split in their order as dictionaries of columns, or as ``Skipped``;
- ``captions(split)``, what can be asked of models, in an order that no number of items moves;
- ``words(split)``, all words its captions hold; ``attributes()``, the values of every attribute, which are
  also the classes of the extractor's heads; ``about(split)``, what the manifest says of where it is from.
"""

from typing import NamedTuple

SPLITS = ("base", "extractor", "reference")
"""What the parts of a data set are for: training bases, training extractors, measuring."""

DATASETS = {
    "digits": "perflow.datasets.digits:Digits",
    "parquet": "perflow.datasets.parquet:Parquet",
    "imagefolder": "perflow.datasets.imagefolder:ImageFolder",
    "hub": "perflow.datasets.hub:Hub",
    "triangle": "perflow.datasets.plane:Triangle",
    "triangle_flipped": "perflow.datasets.plane:TriangleFlipped",
    "ring": "perflow.datasets.plane:Ring",
    "moons": "perflow.datasets.plane:Moons",
}

POINTS = ("triangle", "triangle_flipped", "ring", "moons")
"""Sources of points on the plane; the others are of images."""

METADATA = ("metadata.csv", "metadata.jsonl")
"""Files of an image folder that hold captions."""


class Skipped(NamedTuple):
    """An item that cannot be used."""

    name: str
    why: str
