rule evaluate:
    """Measure the samples of {wildcards.model}."""
    input:
        spec="results/specs/evaluations/{model}.json",
        samples=samples_of,
        teacher=teacher_samples_of,
        dataset=reference_of_model,
        extractor=extractor_of,
        clip=clip_of,
        lpips=lpips_of,
        real=real_of,
    output:
        metrics="results/metrics/{model}.json",
        cost="results/metrics/{model}.cost.json",
    log:
        "logs/evaluate/{model}.log",
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=60,
    params:
        more=given("clip", "lpips", "real"),
    shell:
        "perflow evaluate --spec {input.spec:q} --samples {input.samples:q} --teacher {input.teacher:q}"
        " --dataset {input.dataset:q} --extractor {input.extractor:q} {params.more:q} --out {output.metrics:q} --log {log:q}"
