"""Numbers from samples.

``METRICS`` maps a metric's name in params.yaml to its function as ``module:function``; resolve it with
``pkgutil.resolve_name``. Every metric takes one ``perflow.metrics.trial.Trial`` and returns one
``perflow.metrics.intervals.Estimate``, so another metric is one function and one line here.
``EXTRACTOR`` is the feature network they are computed with. Importing this package imports no torch.
"""

METRICS = {
    "fd_teacher": "perflow.metrics.distance:fd_teacher",
    "fd_real": "perflow.metrics.distance:fd_real",
    "kid_teacher": "perflow.metrics.distance:kid_teacher",
    "kid_real": "perflow.metrics.distance:kid_real",
    "precision": "perflow.metrics.diversity:precision",
    "recall": "perflow.metrics.diversity:recall",
    "diversity": "perflow.metrics.diversity:diversity",
    "prompt_accuracy": "perflow.metrics.alignment:prompt_accuracy",
    "teacher_mse": "perflow.metrics.flow:teacher_mse",
}

EXTRACTOR = "perflow.metrics.features:Extractor"
