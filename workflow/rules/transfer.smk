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
        more=given("dataset", "adapter"),
    shell:
        "perflow transfer --spec {input.spec:q} --base {input.base:q} --model {input.model:q}"
        " --prompts {input.prompts:q} {params.more:q} --out {output.manifest:q} --log {log:q}"
