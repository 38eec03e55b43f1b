rule cache:
    """Make the window pairs {wildcards.pairs}: by their teacher, or of data alone."""
    input:
        spec="results/specs/pairs/{pairs}.json",
        teacher=teacher_of_pairs,
        latents=latents_of_pairs,
        parts=parts_of_pairs,
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
        mem_mb=4000,
        runtime=240,
    params:
        more=given("student"),
    shell:
        "perflow cache $CACHING --spec {input.spec:q} --teacher {input.teacher:q}"
        " --latents {input.latents:q} {params.more:q} --out {output.manifest:q} --log {log:q}"


rule part:
    """Make a part of the window pairs {wildcards.pairs}: its shards stay, its list goes once they are gathered."""
    input:
        spec="results/specs/pairs/{pairs}.json",
        teacher=teacher_of_pairs,
        latents=latents_of_pairs,
        student=student_of_pairs,
    output:
        shards=temp("results/pairs/{pairs}/part-{part}-of-{parts}.json"),
        cost=temp("results/pairs/{pairs}/part-{part}-of-{parts}.cost.json"),
    log:
        "logs/cache/{pairs}-{part}-of-{parts}.log",
    priority: 30
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=240,
    params:
        more=given("student"),
        manifest=lambda wildcards: f"results/pairs/{wildcards.pairs}/manifest.json",
    shell:
        "perflow cache $CACHING --part {wildcards.part:q} {wildcards.parts:q} --spec {input.spec:q} --teacher {input.teacher:q}"
        " --latents {input.latents:q} {params.more:q} --out {params.manifest:q} --log {log:q}"
