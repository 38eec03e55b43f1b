rule encode:
    """Encode {wildcards.latents}, what a base is taught with, once for all its pairs."""
    input:
        spec="results/specs/latents/{latents}.json",
        model=base_of_latents,
        dataset=dataset_of_latents,
    output:
        manifest="results/latents/{latents}/manifest.json",
        cost="results/latents/{latents}/cost.json",
    log:
        "logs/encode/{latents}.log",
    priority: 35
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=60,
    shell:
        "perflow encode --spec {input.spec:q} --model {input.model:q} --dataset {input.dataset:q}"
        " --out {output.manifest:q} --log {log:q}"
