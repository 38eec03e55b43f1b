rule transfer:
    """Draw a model in a setting: {wildcards.transfer}."""
    input:
        unpack(inputs_of_transfer),
        spec="results/specs/transfers/{transfer}.json",
    output:
        manifest="results/transfers/{transfer}/manifest.json",
        cost="results/transfers/{transfer}/cost.json",
    log:
        "logs/transfer/{transfer}.log",
    priority: 10
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=120,
    params:
        inputs=lambda wildcards: options(inputs_of_transfer(wildcards)),
    shell:
        "perflow transfer --spec {input.spec:q} {params.inputs:q} --out {output.manifest:q} --log {log:q}"
