"""Mathematics: tensors in, tensors out; torch and nothing else.

One time throughout: t = 1 is noise, t = 0 is data. The modules are rng, schedule (alpha and sigma),
windows (pieces of [0, 1]), prediction (what a base says), guidance, fields (a network as the right
side of an ODE), solvers (integrate a base) and piecewise (a student's flow).
"""

SOLVER_CALLS = {"ddim": 1, "dpmpp_2m": 1, "heun": 2}
"""The teacher's solvers (``solvers.SOLVERS``) and what a step of each calls; known without torch."""

SPACINGS = ("trailing", "leading", "linspace", "log_snr", "karras", "quadratic")
"""Where ``steps`` steps of a training-free solver may lie (``spacing.times``); known without torch."""

BEST = "best"
"""The spacing that is searched for on development samples."""

WINDOW = "window"
"""The solver of a student on its own windows."""
