rule sample:
    """Draw all trials of {wildcards.model}."""
    input:
        spec="results/specs/samples/{model}.json",
        model=handle_of_model,
        teacher=base_of_model,
        prompts=prompts_of_model,
    output:
        manifest="results/samples/{model}/manifest.json",
        cost="results/samples/{model}/cost.json",
    log:
        "logs/sample/{model}.log",
    priority: 10
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=120,
    shell:
        "perflow sample --spec {input.spec:q} --model {input.model:q} --teacher {input.teacher:q}"
        " --prompts {input.prompts:q} --out {output.manifest:q} --log {log:q}"
