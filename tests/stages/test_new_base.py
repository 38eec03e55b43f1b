"""The untrained parts of a base: every word of a user's captions is a token, and the shape is what the row says."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from perflow.config import rows
from perflow.datasets.own import _WORD
from perflow.models.stable_diffusion import NewStableDiffusion, StableDiffusion, word_tokenizer

OPTIM = rows.Optim(steps=1, batch=1, lr=1e-3)


def row(**changes):
    own = {"channels": [8, 16], "autoencoder_channels": [8, 16], "words": OPTIM, "autoencoder": OPTIM, "network": OPTIM}
    return rows.Base(family="stable_diffusion", dataset="d", **(own | changes))


def tokens(captions, folder):
    words = sorted({word for caption in captions for word in _WORD.findall(caption.lower())})
    return words, word_tokenizer(words, 32, folder)


def test_words_that_repeat_a_pair_or_are_not_ascii_are_one_token(tmp_path):
    captions = ["a cup of cucumber, leafless", "piñata’s “日本” emoji", "m² of ✨"]
    words, tokenizer = tokens(captions, tmp_path / "tokenizer")
    for word in ("cucumber", "leafless", "piñata", "日本", "“", "✨", "cup"):
        assert word in words
        assert len(tokenizer(word).input_ids) == 3, word
    assert tokenizer("m²").input_ids[1:-1] == tokenizer("m").input_ids[1:-1] + tokenizer("²").input_ids[1:-1]
    assert tokenizer.unk_token_id not in tokenizer(" ".join(captions)).input_ids[1:-1]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(st.sampled_from("abcABé’ñ1²_,✨日 \t'"), min_size=1, max_size=9), min_size=1, max_size=12))
def test_no_caption_has_a_word_without_a_token(captions):
    with tempfile.TemporaryDirectory() as folder:
        _, tokenizer = tokens(captions, Path(folder) / "tokenizer")
    for caption in captions:
        assert tokenizer.unk_token_id not in tokenizer(caption).input_ids[1:-1], caption


def test_the_shape_is_what_the_row_says(tmp_path):
    new = NewStableDiffusion(
        row(channels=[16, 32, 64], layers=2, attention=2, autoencoder_channels=[8, 8, 16]), 32, ["a"], tmp_path / "t", 0
    )
    new.save(tmp_path / "base")
    base = StableDiffusion(tmp_path / "base")
    assert base.latent_shape == (4, 8, 8)
    assert base.resolution == 32
    kinds = [type(block).__name__ for block in base.unet.down_blocks]
    assert kinds == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    assert [len(block.resnets) for block in base.unet.down_blocks] == [2, 2, 2]
    heads = [block.attentions[0].transformer_blocks[0].attn2.heads for block in base.unet.down_blocks[1:]]
    assert heads == [1, 2]
    said = base.network()(torch.zeros(1, 4, 8, 8), torch.tensor([500]), base.embed(["a"]))
    assert said.shape == (1, 4, 8, 8)


def test_rows_of_before_are_written_as_they_were_and_impossible_ones_refused():
    assert not {"layers", "attention"} & row().model_dump().keys()
    with pytest.raises(ValidationError, match="attention: 3 levels, but channels names 2"):
        row(attention=3)
    with pytest.raises(ValidationError, match="a level of 104 that reads the text cannot be cut into heads"):
        row(channels=[64, 104])
