rule encode:
    """Encode what {wildcards.base} is taught with, once for all its pairs."""
    input:
        spec="results/specs/latents/{base}.json",
        model="results/bases/{base}/model.json",
        dataset=dataset_of_latents,
    output:
        manifest="results/latents/{base}/manifest.json",
        cost="results/latents/{base}/cost.json",
    log:
        "logs/encode/{base}.log",
    priority: 35
    threads: 1
    resources:
        gpu=GPU,
    shell:
        "perflow encode --spec {input.spec:q} --model {input.model:q} --dataset {input.dataset:q}"
        " --out {output.manifest:q} --log {log:q}"
