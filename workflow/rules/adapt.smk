rule adapt:
    """Train the LoRA or ControlNet {wildcards.adapter}."""
    input:
        spec="results/specs/adapters/{adapter}.json",
        base=base_of_adapter,
        dataset=dataset_of_adapter,
    output:
        adapter="results/adapters/{adapter}/adapter.json",
        curve="results/adapters/{adapter}/curve.jsonl",
        cost="results/adapters/{adapter}/cost.json",
    log:
        "logs/adapt/{adapter}.log",
    priority: 30
    threads: 1
    resources:
        gpu=GPU,
    shell:
        "perflow adapt --spec {input.spec:q} --base {input.base:q} --dataset {input.dataset:q}"
        " --out {output.adapter:q} --log {log:q}"
