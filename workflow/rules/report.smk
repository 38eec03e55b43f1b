TABLES = ["curves", "rows", "runs", "compatibility"]


rule collect:
    """Gather what the study names into tables."""
    input:
        study="results/specs/study.json",
        metrics=expand("results/metrics/{model}.json", model=STUDY.evaluations),
        costs=expand("results/metrics/{model}.cost.json", model=STUDY.evaluations),
        deltas=expand("results/students/{student}/delta.safetensors", student=STUDY.students),
        published=HERE / "workflow" / "report" / "published.json",
    output:
        tables=expand("results/tables/{table}.csv", table=TABLES),
        main=report("results/tables/main.csv", caption="../report/main.rst", category="Tables"),
        ablation=report("results/tables/ablation.csv", caption="../report/ablation.rst", category="Tables"),
        comparisons=report(
            "results/tables/comparisons.csv", caption="../report/comparisons.rst", category="Tables"
        ),
        windows=report("results/tables/windows.csv", caption="../report/windows.rst", category="Tables"),
        costs=report("results/tables/costs.csv", caption="../report/costs.rst", category="Tables"),
        metrics="results/metrics.json",
        record="results/tables/record.json",
    log:
        "logs/collect.log",
    threads: 1
    shell:
        "perflow collect --published {input.published:q} 2>&1 | (tee {log:q} >&2 || true)"


rule report:
    """Execute the report's notebook."""
    input:
        tables=rules.collect.output,
        notebook=HERE / "notebooks" / "report.ipynb",
        published=HERE / "workflow" / "report" / "published.json",
    output:
        notebook="reports/report.ipynb",
        page=report("reports/report.html", caption="../report/report.rst", category="Report"),
    log:
        "logs/report.log",
    threads: 1
    shell:
        "perflow report --notebook {input.notebook:q} --published {input.published:q} --out {output.page:q}"
        " 2>&1 | (tee {log:q} >&2 || true)"


rule track:
    """Bring MLflow in step with the files, the page included."""
    input:
        tables=rules.collect.output,
        page="reports/report.html",
    output:
        runs="results/runs.json",
    log:
        "logs/track.log",
    threads: 1
    params:
        database=str(HERE / "mlflow.db"),
        artifacts=str(HERE / "mlruns"),
    shell:
        "perflow track --database {params.database:q} --artifacts {params.artifacts:q} --report {input.page:q}"
        " 2>&1 | (tee {log:q} >&2 || true)"
