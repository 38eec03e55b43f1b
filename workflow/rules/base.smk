rule base:
    """Train the base {wildcards.base}, take it from where it is, or tune it from another, as a diffusers pipeline."""
    input:
        unpack(inputs_of_base),
        spec="results/specs/bases/{base}.json",
        checkpoint=checkpoint_of_base,
    output:
        model="results/bases/{base}/model.json",
        curve="results/bases/{base}/curve.jsonl",
        cost="results/bases/{base}/cost.json",
    log:
        "logs/base/{base}.log",
    priority: 40
    threads: lambda wildcards: STUDY.bases[wildcards.base].threads
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=120,
    params:
        verb=verb_of_base,
        inputs=given("start", "tuned", "latents", "dataset"),
    shell:
        "perflow {params.verb:q} --spec {input.spec:q} {params.inputs:q}"
        ' --root "$REPOSITORY" --out {output.model:q} --log {log:q}'
