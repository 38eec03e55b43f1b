rule base:
    """Train the base {wildcards.base} and save it as a diffusers pipeline."""
    input:
        spec="results/specs/bases/{base}.json",
        dataset=dataset_of_base,
    output:
        model="results/bases/{base}/model.json",
        curve="results/bases/{base}/curve.jsonl",
        cost="results/bases/{base}/cost.json",
    log:
        "logs/base/{base}.log",
    benchmark:
        "logs/base/{base}.tsv"
    priority: 40
    threads: 2
    resources:
        gpu=GPU,
    shell:
        "perflow base --spec {input.spec:q} --dataset {input.dataset:q}"
        " --out {output.model:q} --log {log:q}"
