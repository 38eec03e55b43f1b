"""The map: load the study, include the stages, name what must exist in the end."""

from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/prompts.smk"
include: "workflow/rules/base.smk"
include: "workflow/rules/extractor.smk"
include: "workflow/rules/encode.smk"
include: "workflow/rules/cache.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/adapt.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


report: "workflow/report/workflow.rst"


localrules:
    all,
    collect,
    track,
    report,


rule all:
    """Every artifact the study names: what is missing is made again."""
    default_target: True
    input:
        "reports/report.html",
        "results/runs.json",
        rules.collect.output,
        records(),
        expand("data/{split}/manifest.json", split=STUDY.splits),
        expand("results/prompts/{prompts}/manifest.json", prompts=STUDY.prompts),
        expand("results/bases/{base}/{file}", base=STUDY.bases, file=["model.json", "curve.jsonl"]),
        expand("results/extractors/{extractor}/extractor.safetensors", extractor=STUDY.extractors),
        expand("results/latents/{latents}/manifest.json", latents=STUDY.latents),
        expand("results/pairs/{pairs}/manifest.json", pairs=STUDY.pairs),
        expand(
            "results/students/{student}/{file}",
            student=STUDY.students,
            file=["ema.safetensors", "curve.jsonl", "delta.safetensors", "model.json"],
        ),
        expand("results/samples/{model}/manifest.json", model=STUDY.samples),
        expand(
            "results/adapters/{adapter}/{file}", adapter=STUDY.adapters, file=["adapter.json", "curve.jsonl"]
        ),
        expand("results/transfers/{transfer}/manifest.json", transfer=STUDY.transfers),
        expand("results/metrics/{model}.json", model=STUDY.evaluations),


onstart:
    worker = start_worker()  # ends with this process


onsuccess:
    if Path("reports/report.html").exists():
        shell("perflow table && echo 'The report is reports/report.html; curves and grids: mlflow ui'")
