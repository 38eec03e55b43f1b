rule sample:
    """Draw all trials of {wildcards.model}."""
    input:
        spec="results/specs/samples/{model}.json",
        model=handle_of_model,
        teacher=base_of_model,
        dataset=dataset_of_samples,
        extractor=extractor_of_search,
        pairs=pairs_of_samples,
    output:
        manifest="results/samples/{model}/manifest.json",
        cost="results/samples/{model}/cost.json",
    log:
        "logs/sample/{model}.log",
    priority: 10
    threads: 1
    resources:
        gpu=GPU,
    params:
        more=given("extractor", "pairs"),
    shell:
        "perflow sample --spec {input.spec:q} --model {input.model:q} --teacher {input.teacher:q}"
        " --dataset {input.dataset:q} {params.more:q} --out {output.manifest:q} --log {log:q}"
