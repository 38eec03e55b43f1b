"""Execute the notebook and turn it into one self-contained page; the same inputs give the same bytes."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.report.page import document

_PREFIX = "(the environment's sys.prefix)"
"""Stands in the executed notebook for the one path that differs between machines."""


def render(notebook: str | Path, results_dir: str | Path, published: str | Path, out_html: str | Path) -> None:
    """Execute ``notebook`` with papermill; write ``out_html`` and beside it the executed notebook (.ipynb).

    Cells run in the working directory. Both files are complete or absent. PerflowError with the failing
    cell's error if one fails.
    """
    out, results = Path(out_html), Path(results_dir)
    parameters = {
        "prefix": sys.prefix,
        "study": str(results / "specs" / "study.json"),
        "results": str(results),
        "published": str(published),
    }
    book = normalised(_executed(notebook, parameters))
    page = _html(book)
    executed = json.dumps(book, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    artifacts.write_text(out.with_suffix(".ipynb"), executed)
    artifacts.write_text(out, page)


def _executed(notebook: str | Path, parameters: dict[str, str]) -> Any:
    import papermill
    from nbclient.exceptions import DeadKernelError

    if not Path(notebook).is_file():
        raise PerflowError(f"{notebook}: no such notebook")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about event loops and notebook formats, nothing a user can act on
        try:
            return papermill.execute_notebook(
                str(notebook), None, parameters, kernel_name="python3", progress_bar=False, log_output=False,
                extra_arguments=["--log-level=50"],
            )  # fmt: skip
        except papermill.PapermillExecutionError as error:
            raise PerflowError(f"{notebook}: cell {error.exec_count} failed: {error.ename}: {error.evalue}") from None
        except DeadKernelError:
            raise PerflowError(f"{notebook}: its kernel was killed; the same command makes the report") from None


def normalised(book: Any) -> Any:
    """The notebook without what differs from run to run: times, random cell ids, the environment's path."""
    for name in ("papermill", "widgets"):
        book.metadata.pop(name, None)
    for i, cell in enumerate(book.cells):
        cell["id"] = f"cell-{i:02d}"
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = cell.source.replace(json.dumps(sys.prefix), json.dumps(_PREFIX))
    return book


def _html(book: Any) -> str:
    """The notebook's prose and outputs, without its code, inside :func:`perflow.report.page.document`."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
        mathjax_url="",
        require_js_url="",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body, _ = exporter.from_notebook_node(book)
    return document(body)
