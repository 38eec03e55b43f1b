"""Mathematics: tensors in, tensors out; torch and nothing else.

One time throughout: t = 1 is noise, t = 0 is data. The modules are rng, schedule (alpha and sigma),
windows (pieces of [0, 1]), prediction (what a base says), guidance, fields (a network as the right
side of an ODE), solvers (integrate a base), piecewise (a student's flow), and for rectified flow itself
interpolation (paths between any two distributions), velocity (RK45, the reverse SDE) and distributions
(on the plane).
"""

SOLVER_CALLS = {"ddim": 1, "dpmpp_2m": 1, "heun": 2}
"""The teacher's solvers (``solvers.SOLVERS``) and what a step of each calls; known without torch."""

SPACINGS = ("trailing", "leading", "linspace", "log_snr", "karras", "quadratic")
"""Where ``steps`` steps of a training-free solver may lie (``spacing.times``); known without torch."""

BEST = "best"
"""The spacing that is searched for on development samples."""

WINDOW = "window"
"""The solver of a student on its own windows; of a flow (a base that says velocity), Euler's method."""

RK45, SDE = "rk45", "sde"
"""The solvers of ``velocity``: Dormand and Prince with a step of its own size for every item, and the reverse SDE."""

INTERPOLATIONS = ("straight", "vp", "subvp", "vp_constant", "ve")
"""The names of ``interpolation.INTERPOLATIONS``; known without torch."""

DIFFUSIONS = ("vp", "subvp", "ve")
"""Those that are the marginals of a diffusion: alpha(1) > 0, so that the reverse SDE has a first step."""

DISTRIBUTIONS = ("gaussian", "triangle", "triangle_flipped", "ring", "moons")
"""The names of ``distributions.DISTRIBUTIONS``; known without torch."""
