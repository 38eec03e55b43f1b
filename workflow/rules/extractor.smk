rule extractor:
    """Train the feature network {wildcards.extractor}."""
    input:
        spec="results/specs/extractors/{extractor}.json",
        dataset=dataset_of_extractor,
    output:
        weights="results/extractors/{extractor}/extractor.safetensors",
        curve="results/extractors/{extractor}/curve.jsonl",
        cost="results/extractors/{extractor}/cost.json",
    log:
        "logs/extractor/{extractor}.log",
    benchmark:
        "logs/extractor/{extractor}.tsv"
    threads: 1
    resources:
        gpu=GPU,
    shell:
        "perflow extractor --spec {input.spec:q} --dataset {input.dataset:q}"
        " --out {output.weights:q} --log {log:q}"
