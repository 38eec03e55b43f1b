"""Where images and captions come from.

``DATASETS`` maps a source's name in params.yaml to its class as ``module:Class``; resolve it with
``pkgutil.resolve_name``. Importing this package imports neither torch nor scikit-learn.

A source is a frozen class built from ``(resolution, counts, seed)`` with ``rows(split)``, the items of
a split as dictionaries of ``COLUMNS``; ``words()``, all words a caption can hold; and ``attributes()``,
the values of every attribute, which are also the classes of the extractor's heads.
"""

SPLITS = ("base", "extractor", "reference")
"""What the parts of a data set are for: training bases, training extractors, measuring."""

DATASETS = {
    "digits": "perflow.datasets.digits:Digits",
    "triangle": "perflow.datasets.plane:Triangle",
    "triangle_flipped": "perflow.datasets.plane:TriangleFlipped",
    "ring": "perflow.datasets.plane:Ring",
    "moons": "perflow.datasets.plane:Moons",
}

POINTS = ("triangle", "triangle_flipped", "ring", "moons")
"""Sources of points on the plane; the others are of images."""
