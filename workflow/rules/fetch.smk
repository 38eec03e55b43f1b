rule fetch:
    """Make the images and captions of the split {wildcards.split}."""
    input:
        spec="results/specs/splits/{split}.json",
        files=files_of_split,
    output:
        manifest="data/{split}/manifest.json",
        cost="data/{split}/cost.json",
    log:
        "logs/fetch/{split}.log",
    priority: 50
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    shell:
        'perflow fetch --spec {input.spec:q} --root "$REPOSITORY" --out {output.manifest:q} --log {log:q}'
