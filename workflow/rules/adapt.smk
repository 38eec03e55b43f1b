rule adapt:
    """Train the LoRA or ControlNet {wildcards.adapter}."""
    input:
        unpack(inputs_of_adapter),
        spec="results/specs/adapters/{adapter}.json",
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
        mem_mb=4000,
        runtime=120,
    params:
        more=given("dataset"),
    shell:
        "perflow adapt --spec {input.spec:q} --base {input.base:q} --latents {input.latents:q}"
        " {params.more:q} --out {output.adapter:q} --log {log:q}"
