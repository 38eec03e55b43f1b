"""A CLIPModel with random weights, small enough to make on the spot, saved as transformers saves one."""

from __future__ import annotations

from pathlib import Path

import torch


def tiny_clip(folder: Path, words: list[str]) -> Path:
    """The folder of a CLIP that reads 32 x 32 pixels and these words."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from perflow.models.stable_diffusion import word_tokenizer

    tokenizer = word_tokenizer(words, 12, folder.with_name(f"{folder.name}-words"))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1}
    vision = {"image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text | sizes, vision_config=vision | sizes, projection_dim=8))
        for parameter in model.parameters():  # as made, all texts look alike
            parameter.data += 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    return folder
