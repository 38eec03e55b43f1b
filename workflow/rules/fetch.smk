rule fetch:
    """Make the images and captions of {wildcards.dataset}."""
    input:
        spec="results/specs/datasets/{dataset}.json",
    output:
        manifest="data/{dataset}/manifest.json",
        cost="data/{dataset}/cost.json",
    log:
        "logs/fetch/{dataset}.log",
    priority: 50
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    shell:
        "perflow fetch --spec {input.spec:q} --out {output.manifest:q} --log {log:q}"
