rule extractor:
    """Make the feature network {wildcards.extractor}."""
    input:
        spec="results/specs/extractors/{extractor}.json",
        source=source_of_extractor,
        dataset=ruler_of_extractor,
    output:
        weights="results/extractors/{extractor}/extractor.safetensors",
        curve="results/extractors/{extractor}/curve.jsonl",
        cost="results/extractors/{extractor}/cost.json",
    log:
        "logs/extractor/{extractor}.log",
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=60,
    params:
        more=given("dataset"),
    shell:
        "perflow extractor --spec {input.spec:q} --source {input.source:q} {params.more:q}"
        " --out {output.weights:q} --log {log:q}"
