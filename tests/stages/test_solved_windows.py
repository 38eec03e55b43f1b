"""The benchmark of windows: its errors are of the solvers' orders on a real teacher; two steps of dpmpp_2m are DDIM."""

import os
import subprocess
import sys


def test_errors_fall_with_evaluations_and_two_steps_of_second_order_are_ddim(root, made):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.windows", "--model", made.handle("eps"), "--latents", made.latents("eps"),
         "--windows", "2", "--evaluations", "2", "8", "32", "--items", "16"],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    errors = {(row[0], int(row[1])): [float(cell.removesuffix(" %")) for cell in row[2:]] for row in rows[2:]}
    assert {solver for solver, _ in errors} == {"ddim", "dpmpp_2m", "heun"}
    for solver in ("ddim", "dpmpp_2m", "heun"):
        for k in range(2):
            assert errors[solver, 2][k] > errors[solver, 8][k] > errors[solver, 32][k]
    # with few steps the last one is of first order, and so is the first
    assert errors["dpmpp_2m", 2] == errors["ddim", 2]
    # a window that ends before t=0 is smooth: at 32 evaluations an order shows
    assert errors["dpmpp_2m", 32][0] < errors["ddim", 32][0] / 4
