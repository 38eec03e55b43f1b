rule export:
    """Export {wildcards.student} as a delta on its base."""
    input:
        spec="results/specs/deltas/{student}.json",
        student_spec="results/specs/students/{student}.json",
        weights="results/students/{student}/ema.safetensors",
        base=base_of_student,
    output:
        delta="results/students/{student}/delta.safetensors",
        model="results/students/{student}/model.json",
        cost="results/students/{student}/export.cost.json",
    log:
        "logs/export/{student}.log",
    priority: 25
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    shell:
        "perflow export --spec {input.spec:q} --student-spec {input.student_spec:q}"
        " --weights {input.weights:q} --base {input.base:q} --out {output.delta:q} --log {log:q}"
