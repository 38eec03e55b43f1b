rule sample:
    """Draw all trials of {wildcards.model}."""
    input:
        spec="results/specs/samples/{model}.json",
        model=handle_of_model,
        teacher=base_of_model,
        prompts=prompts_of_model,
        extractor=extractor_of_search,
        captions=captions_of_search,
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
        mem_mb=4000,
        runtime=120,
    params:
        more=given("extractor", "captions", "pairs"),
    shell:
        "perflow sample --spec {input.spec:q} --model {input.model:q} --teacher {input.teacher:q}"
        " --prompts {input.prompts:q} {params.more:q} --out {output.manifest:q} --log {log:q}"
