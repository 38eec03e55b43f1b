"""Where does the gain come from: guidance that is learnt, or a course that is straight?

The section stands where a study searched for its solvers' steps, and is empty otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from statistics import mean

from matplotlib.figure import Figure

from perflow.report import figures, reading
from perflow.report.data import Report
from perflow.report.html import Cell, Html, badge, figure, folded, paragraph, table
from perflow.report.questions import Difference, Measured, alpha, apart, differences, estimates, has, measured_of
from perflow.report.study import Arm, arms, metric_name
from perflow.report.words import count, listed, number

Place = tuple[str, float, int]
"""Base, guidance of the teacher, most network evaluations."""

_LEARNT = ("CFG-fixed", "CFG-embedded")
"""A student that learnt its guidance, one or all of a range: one evaluation a step."""
_STRAIGHT = "PeRFlow, learnt guidance"

SIDES: dict[str, Callable[[Arm], bool]] = {
    "training-free": lambda arm: arm.kind == "base" and not arm.reference,
    "guidance-distilled": lambda arm: arm.method == "distill" and not arm.windowed and arm.guidance_mode in _LEARNT,
    "window starts only": lambda arm: arm.method == "distill" and arm.windowed and arm.guidance_mode in _LEARNT,
    _STRAIGHT: lambda arm: arm.method == "piecewise_reflow" and arm.guidance_mode in _LEARNT,
    "PeRFlow, CFG-sync": lambda arm: (
        arm.method == "piecewise_reflow" and arm.guidance_mode == "CFG-sync" and arm.ends is None
    ),
}
"""Where a gain may come from: each side stands for one more thing that was taught."""
_AGAINST = {
    "guidance-distilled": "guidance distillation with its best solver",
    "window starts only": "the same windows asked at their starts only",
}
"""What straightening is held against, and how the text calls it."""


def gain(report: Report) -> Html:
    """Where the gain comes from: every side's best row by guidance and network evaluations, and what beats what.

    Of a side's rows the one counts that was best on development samples, so the samples shown choose nothing.
    """
    measured, metric = measured_of(report), report.shown("fd_teacher")
    cells = gain_cells(report, measured, metric)
    if not cells:
        return Html("")
    told = _told(report, cells, metric, measured)
    beaten = told["guidance-distilled"]
    shown = [name for name in SIDES if any(name in sides for sides in cells.values())]
    rows = []
    for (base, guidance, budget), sides in cells.items():
        row = [Cell(f"{guidance:g}", 1, "method"), Cell(str(budget))]
        row += [_gain_cell(sides.get(name), metric, measured) for name in shown]
        one = beaten.get((base, guidance, budget))
        rows.append([*row, Cell(badge(one.verdict) if one else "")])
    header = ["guidance", "evaluations, at most", *shown, "straightening beats guidance distillation"]
    caption = f"{metric_name(metric, report.extractor)}; each row is held against the teacher of its own guidance"
    text = (
        "A student of guided pairs learns two things at once: guidance, which halves its evaluations, and a straight"
        " course. Each column adds one thing: a solver that needs no training; the same solvers on a student that"
        " learnt guidance only; the window's end, asked at its start; the whole window. Of each column the row that"
        " came closest to its teacher on development samples is shown, with its solver, steps and spacing."
    )
    note = "Base {}: each side's best row on development samples, for at most so many evaluations."
    drawn = [figure(image, note.format(base)) for base, image in pictures(report).items()]
    return Html("".join((
        '<h2 id="gain">Where the gain comes from</h2>', paragraph(text),
        *(paragraph(region(found, _AGAINST[name])) for name, found in told.items() if found),
        table(header, rows, caption, "results"),
        folded("differences", _differences([one for found in told.values() for one in found.values()])),
        _searches(measured), *drawn,
    )))  # fmt: skip


def pictures(report: Report) -> dict[str, Figure]:
    """A figure for each base; none where no steps were searched for."""
    measured, metric = measured_of(report), report.shown("fd_teacher")
    return figures.gain(report, gain_cells(report, measured, metric), metric, measured)


def gain_cells(report: Report, measured: Measured, metric: str) -> dict[Place, dict[str, Arm]]:
    """(base, guidance of the teacher, most evaluations) -> side -> its row; empty unless steps were searched for."""
    every = [arm for arm in arms(report.study, report.results / "specs") if has(arm, metric, measured)]
    own = report.study["settings"]["sampling"]["teacher"]["guidance"]
    found = {name: [arm for arm in every if belongs(arm) and _score(arm, measured) is not None]
             for name, belongs in SIDES.items()}  # fmt: skip
    if not found["training-free"] or not found[_STRAIGHT]:
        return {}
    grid = sorted({(arm.base, own if arm.teacher is None else arm.teacher) for side in found.values() for arm in side})
    budgets = report.study["settings"].get("baselines", {}).get("evaluations")
    budgets = budgets or sorted({arm.nfe for arm in found["training-free"]})
    cells = {}
    for base, guidance in grid:
        for budget in budgets:
            cells[base, guidance, budget] = {}
            for name, side in found.items():
                there = [arm for arm in side if arm.base == base and arm.nfe <= budget]
                there = [arm for arm in there if (own if arm.teacher is None else arm.teacher) == guidance]
                if there:
                    cells[base, guidance, budget][name] = min(there, key=lambda arm: _score(arm, measured))
    return cells


def region(told: dict[Place, Difference], against: str) -> str:
    """Where straightening beats something else, in a sentence."""
    groups = {said: [key for key, one in told.items() if one.verdict == said]
              for said in (reading.SEEN, reading.NOT_SEEN, reading.NOISE)}  # fmt: skip
    several = len({base for base, _, _ in told}) > 1

    def places(keys: list[Place]) -> str:
        by: dict[tuple[str, float], list[int]] = {}
        for base, guidance, budget in keys:
            by.setdefault((base, guidance), []).append(budget)
        return listed(
            f"guidance {guidance:g}{f' on {base}' if several else ''} with {listed(map(str, budgets))} evaluations"
            for (base, guidance), budgets in by.items()
        )

    said = {
        reading.SEEN: "closer to its teacher at {}",
        reading.NOT_SEEN: "farther from its teacher at {}",
        reading.NOISE: "within the noise at {}",
    }
    parts = [text.format(places(groups[name])) for name, text in said.items() if groups[name]]
    return f"Held against {against}, straightening ({_STRAIGHT}) is {'; '.join(parts)}."


def _told(
    report: Report, cells: dict[Place, dict[str, Arm]], metric: str, measured: Measured
) -> dict[str, dict[Place, Difference]]:
    """What straightening is held against -> place -> the difference; corrected over all together."""
    keys = [(name, place) for name in _AGAINST for place, sides in cells.items() if {name, _STRAIGHT} <= sides.keys()]
    pairs = [(cells[place][_STRAIGHT], cells[place][name]) for name, place in keys]
    told: dict[str, dict[Place, Difference]] = {name: {} for name in _AGAINST}
    for (name, place), one in zip(keys, differences(pairs, metric, measured, alpha(report)), strict=True):
        told[name][place] = one
    return told


def _score(arm: Arm, measured: Measured) -> float | None:
    """The distance on development samples of the steps that were found, the mean over training seeds."""
    found = [measured[model]["trials"][arm.trial].get("searched") for model in arm.models]
    best = [one["tried"][one["name"]] for one in found if one is not None]
    return mean(best) if len(best) == len(found) and None not in best else None


def _gain_cell(arm: Arm | None, metric: str, measured: Measured) -> Cell:
    if arm is None:
        return Cell("")
    value = mean(estimate["value"] for estimate in estimates(arm, metric, measured))
    spacing = measured[arm.models[0]]["trials"][arm.trial]["searched"]["name"]
    small = f"{arm.label.split(', ')[0] if arm.kind == 'base' else arm.label}; {count(arm.steps, 'step')}, {spacing}"
    return Cell(f"{number(value, 3)}<small>{escape(small)}</small>", 1, "")


def _differences(found: Sequence[Difference]) -> Html:
    rows = [
        [Cell(escape(f"{one.own.label}, {count(one.own.steps, 'step')}"), 1, "method"),
         Cell(escape(f"{one.other.label}, {count(one.other.steps, 'step')}")),
         *apart(one)]
        for one in found
    ]  # fmt: skip
    return table(["this", "against", "difference", "p, corrected", "verdict"], rows)


def _searches(measured: Measured) -> Html:
    """What was searched for, what was found, and what it cost."""
    found = [(model, name, trial["searched"]) for model, content in measured.items()
             for name, trial in content["trials"].items() if "searched" in trial]  # fmt: skip
    rows = [
        [Cell(escape(model), 1, "method"), name, one["name"], " ".join(f"{t:.3f}" for t in one["times"]),
         str(len(one["tried"])), f"{one['evaluations']:,}"]
        for model, name, one in found
    ]  # fmt: skip
    total = sum(one["evaluations"] for _, _, one in found)
    header = ["model", "trial", "found", "its steps begin at", "tried", "network evaluations"]
    return folded(
        f"trials with searched steps: {len(found)}; {total:,} network evaluations in all",
        table(header, rows, kind="text"),
    )
