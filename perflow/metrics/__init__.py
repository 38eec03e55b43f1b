"""Numbers from samples.

``METRICS`` maps a metric's name in params.yaml to its function as ``module:function``; resolve it with
``pkgutil.resolve_name``. Every metric takes one ``perflow.metrics.trial.Trial`` and returns one
``perflow.metrics.intervals.Estimate``, so another metric is one function and one line here.
``EXTRACTORS`` maps the kind of a feature network to the function that makes one from its tensors and its
``architecture()``: an object with ``values`` (attribute -> values it tells apart) and ``observe`` (images ->
features and labels), but for ``LPIPS``, which has ``distances`` in place of ``observe``. Importing this package imports
no torch.
"""

METRICS = {
    "fd_teacher": "perflow.metrics.distance:fd_teacher",
    "fd_real": "perflow.metrics.distance:fd_real",
    "kid_teacher": "perflow.metrics.distance:kid_teacher",
    "kid_real": "perflow.metrics.distance:kid_real",
    "precision": "perflow.metrics.diversity:precision",
    "recall": "perflow.metrics.diversity:recall",
    "density": "perflow.metrics.diversity:density",
    "coverage": "perflow.metrics.diversity:coverage",
    "diversity": "perflow.metrics.diversity:diversity",
    "vendi": "perflow.metrics.diversity:vendi",
    "inception_score": "perflow.metrics.classes:inception_score",
    "prompt_accuracy": "perflow.metrics.alignment:prompt_accuracy",
    "clip_score": "perflow.metrics.alignment:clip_score",
    "lpips_diversity": "perflow.metrics.diversity:lpips_diversity",
    "teacher_mse": "perflow.metrics.flow:teacher_mse",
    "energy_real": "perflow.metrics.transport:energy_real",
    "transport_square": "perflow.metrics.transport:transport_square",
    "transport_norm": "perflow.metrics.transport:transport_norm",
    "transport_fourth": "perflow.metrics.transport:transport_fourth",
    "transport_square_random": "perflow.metrics.transport:transport_square_random",
    "transport_norm_random": "perflow.metrics.transport:transport_norm_random",
    "transport_fourth_random": "perflow.metrics.transport:transport_fourth_random",
    "crossing": "perflow.metrics.transport:crossing",
    "crossing_random": "perflow.metrics.transport:crossing_random",
    "straightness": "perflow.metrics.transport:straightness",
    "evaluations": "perflow.metrics.flow:evaluations",
}

CLIP, LPIPS = "clip", "lpips"
"""Kinds of network that one metric has beside the extractor, and the keys of ``evaluation`` that name theirs."""

PERCEIVING = (LPIPS, "squeezenet")
"""Kinds that a loss may ask how far apart two images look: an object with ``apart``."""

_PATHS = ("paths",)
NEEDS = {
    "kid_real": ("each_real",),
    "energy_real": ("each_real",),
    "diversity": ("prompts",),
    "vendi": ("prompts",),
    "inception_score": ("classes",),
    "prompt_accuracy": ("prompts", "attributes"),
    "clip_score": ("prompts", CLIP),
    "lpips_diversity": ("prompts", LPIPS),
    "teacher_mse": ("latents",),
    "transport_square": _PATHS,
    "transport_norm": _PATHS,
    "transport_fourth": _PATHS,
    "transport_square_random": _PATHS,
    "transport_norm_random": _PATHS,
    "transport_fourth_random": _PATHS,
    "crossing": _PATHS,
    "crossing_random": _PATHS,
    "straightness": _PATHS,
    "evaluations": ("calls",),
}
"""What a metric needs beside features: those of each real image (not statistics of them alone), each image's prompt,
an extractor that reads its attributes or that tells classes, a network of its own beside the extractor, latents, what
each sample cost, or the paths of points on the plane."""

COORDINATES = "coordinates"
"""The kind that is no network: a point's features are its coordinates."""

CLASSIFIER = "classifier"
"""The kind that is trained on the study's own data, and the only one that reads its attributes."""

EXTRACTORS = {
    CLASSIFIER: "perflow.metrics.features:restore",
    "squeezenet": "perflow.metrics.squeezenet:restore",
    COORDINATES: "perflow.metrics.transport:coordinates",
    "inception": "perflow.metrics.scripted:restore_inception",
    "torchscript": "perflow.metrics.scripted:restore",
    CLIP: "perflow.metrics.clip:restore",
    LPIPS: "perflow.metrics.perceptual:restore",
}

STANDARDISABLE = ("squeezenet", "torchscript")
"""Kinds whose features an entry may have standardised. A classifier standardises its own; FID's Inception has published
numbers, which are of its features as they are."""

CLASSIFYING = (CLASSIFIER, "inception", "torchscript")
"""Kinds that may say how likely each class is: an object with ``classify`` (features [N, D] -> probabilities [N, C] by
attribute)."""

READERS = {
    "inception": "perflow.metrics.scripted:tensors",
    "torchscript": "perflow.metrics.scripted:tensors",
    CLIP: "perflow.metrics.clip:tensors",
    LPIPS: "perflow.metrics.scripted:tensors",
}
"""Kinds whose weights are more, or other, than a safetensors file, and the function that makes tensors of them."""

FOLDERS = {CLIP: ("model.safetensors", "perflow.metrics.clip:pinned")}
"""Kinds whose weights are a folder: the file that stands for it, and the function that hashes all that is read."""
