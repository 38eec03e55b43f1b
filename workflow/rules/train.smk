rule train:
    """Teach {wildcards.student} from its window pairs, or take the weights that others taught."""
    input:
        unpack(inputs_of_student),
        spec="results/specs/students/{student}.json",
        released=released_of_student,
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
    params:
        verb=verb_of_student,
        inputs=given("start", "pairs", "perceptual"),
    shell:
        'perflow {params.verb} --spec {input.spec:q} {params.inputs:q} --root "$REPOSITORY"'
        " --out {output.weights:q} --log {log:q}"
