rule prompts:
    """Choose what models are asked to draw: {wildcards.prompts}."""
    input:
        spec="results/specs/prompts/{prompts}.json",
        files=file_of_prompts,
    output:
        manifest="results/prompts/{prompts}/manifest.json",
        cost="results/prompts/{prompts}/cost.json",
    log:
        "logs/prompts/{prompts}.log",
    priority: 45
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        'perflow prompts --spec {input.spec:q} --root "$REPOSITORY" --out {output.manifest:q} --log {log:q}'
