rule cache:
    """Let the teacher make the window pairs {wildcards.pairs}."""
    input:
        spec="results/specs/pairs/{pairs}.json",
        teacher=teacher_of_pairs,
        dataset=dataset_of_pairs,
        student=student_of_pairs,
    output:
        manifest="results/pairs/{pairs}/manifest.json",
        cost="results/pairs/{pairs}/cost.json",
    log:
        "logs/cache/{pairs}.log",
    priority: 30
    threads: 1
    resources:
        gpu=GPU,
    params:
        more=given("student"),
    shell:
        "perflow cache --spec {input.spec:q} --teacher {input.teacher:q}"
        " --dataset {input.dataset:q} {params.more:q} --out {output.manifest:q} --log {log:q}"
