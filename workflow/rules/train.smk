rule train:
    """Teach {wildcards.student} from its window pairs."""
    input:
        spec="results/specs/students/{student}.json",
        start=start_of_student,
        pairs=pairs_of_student,
    output:
        weights="results/students/{student}/ema.safetensors",
        curve="results/students/{student}/curve.jsonl",
        cost="results/students/{student}/cost.json",
    log:
        "logs/train/{student}.log",
    priority: 20
    threads: 1
    resources:
        gpu=GPU * PROCESSES,
        mem_mb=4000 * PROCESSES,
        runtime=240,
    shell:
        "perflow train $TRAINING --spec {input.spec:q} --start {input.start:q} --pairs {input.pairs:q}"
        " --out {output.weights:q} --log {log:q}"
