"""Published values beside measured ones, where both are of the same base, data and features; nowhere else.

A value is data (``values`` of workflow/report/published.json): ``base`` lists the hub's names of the base that it was
measured on, ``data`` is what the images, or the prompts, are known as (``known_as`` of a data set), ``features`` the
kind of the feature network, ``rows`` what a row may be, each a way to say it. Names of a study's entries play no part.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from perflow.report.data import Report, records
from perflow.report.html import Cell, Html, paragraph, table
from perflow.report.words import number, signed, stepped


def pairs(report: Report) -> list[dict[str, Any]]:
    """Every published value with a measured one: ``published`` (an entry), ``line`` (of the tables), ``difference``.

    ``line`` has at least base, method, steps, guidance, metric, value, low, high.
    """
    found = []
    for value in report.published.get("values", ()):
        for line, about in _lines(report):
            if _same(report.study["settings"], value, line, about):
                found.append({"published": value, "line": line, "difference": line["value"] - value["value"]})
    return found


def _lines(report: Report) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every measured number and the model it is of: of models on their own base, and of those put into another."""
    models = {model["name"]: model for model in report.study["models"]}
    by_key = {_key(model): model for model in models.values()}
    for line in records(report.main):
        yield line | {"method": line["label"]}, by_key[line["key"]]
    for line in records(report.tables["compatibility"]):
        plain = line["task"] == "text" and not line["adapter"] and not line["rank"]
        if plain and line["role"] == "delta":  # the base itself and its own students stand in the main table
            yield line, models[line["model"]]


def _key(model: dict[str, Any]) -> str:
    return model["name"].removesuffix(f"-s{model['seed']}") if model["kind"] == "student" else model["name"]


def _same(settings: dict[str, Any], value: dict[str, Any], line: dict[str, Any], model: dict[str, Any]) -> bool:
    """Whether a published value and a line of a table are of one metric, base, data, network and kind of row."""
    base = settings["bases"].get(line["base"], {})
    data = settings["datasets"].get(base.get("dataset"), {})
    features = next(iter(_kinds(settings)), None)
    row = {**model, "source": (_source(settings, model) or {}).get("hub"), **_trial(line)}
    return (
        line["metric"] == value["metric"]
        and ((base.get("source") or {}).get("hub") in value["base"])
        and data.get("known_as") == value["data"]
        and features == value["features"]
        and not str(line["trial"]).startswith("teacher")
        and any(all(row.get(field) == wanted for field, wanted in one.items()) for one in value["rows"])
    )


def _kinds(settings: dict[str, Any]) -> Iterator[str]:
    """The kind of the feature network that everything is measured with, if its features are as it gives them."""
    used = settings.get("evaluation", {}).get("extractor")
    if used in settings.get("extractors", {}) and "standardise" not in settings["extractors"][used]:
        yield settings["extractors"][used].get("kind", "classifier")


def _source(settings: dict[str, Any], model: dict[str, Any]) -> dict[str, Any] | None:
    return settings["students"].get(model["entry"], {}).get("source")


def _trial(line: dict[str, Any]) -> dict[str, Any]:
    return {"solver": line["solver"], "steps": line["steps"]}


def beside(report: Report) -> Html:
    """A table of published, measured and their difference; a sentence where no row is comparable."""
    found = pairs(report)
    if not found:
        return paragraph(
            "No row of this study is on a base, data and features that a figure below was measured on, so none stands"
            " beside a measured number."
        )
    rows = []
    for one in found:
        value, line = one["published"], one["line"]
        source = escape(value["source"])
        source = f'<a href="{escape(value["url"])}">{source}</a>' if value.get("url") else source
        low, high = number(line["low"], 2), number(line["high"], 2)
        note = f"<small>{escape(value['note'])}</small>" if value.get("note") else ""
        rows.append([
            Cell(f"{escape(str(line['method']))}<small>{escape(str(line['base']))}</small>", 1, "method"),
            Cell(stepped(line["steps"])), Cell(escape(str(line["guidance"]))), Cell(escape(line["metric_name"])),
            Cell(escape(value["data"])), Cell(number(value["value"])),
            Cell(f"{number(line['value'])}<small>[{low}, {high}]</small>"), Cell(signed(one["difference"])),
            Cell(source + note),
        ])  # fmt: skip
    header = ["method", "steps", "guidance here", "metric", "data", "published", "measured", "difference", "source"]
    return table(header, rows, "Published and measured, on the same base and data and in the same features", "results")
