rule cache:
    """Let the teacher make the window pairs {wildcards.pairs}."""
    input:
        spec="results/specs/pairs/{pairs}.json",
        teacher=teacher_of_pairs,
        latents=latents_of_pairs,
    output:
        manifest="results/pairs/{pairs}/manifest.json",
        cost="results/pairs/{pairs}/cost.json",
    log:
        "logs/cache/{pairs}.log",
    priority: 30
    threads: 1
    resources:
        gpu=GPU,
    shell:
        "perflow cache --spec {input.spec:q} --teacher {input.teacher:q}"
        " --latents {input.latents:q} --out {output.manifest:q} --log {log:q}"
