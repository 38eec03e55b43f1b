"""Pairs stay on disk: a batch costs its own rows, however many there are."""

import pytest
import torch

from perflow import artifacts, pairs, stored
from perflow.errors import PerflowError
from perflow.pairs import PairCache

LATENT = (2, 3)


def write(folder, counts):
    """A cache of shards of ``counts`` items of two windows; what it holds, in order."""
    parts, entries = [], []
    rng = torch.Generator().manual_seed(0)
    for index, count in enumerate(counts):
        parts.append(
            {name: torch.randn(count, *LATENT, generator=rng) for name in ("start", "end")}
            | {name: torch.randint(2, (count,), generator=rng, dtype=torch.int32) for name in ("k", "caption")}
        )
        path = folder / pairs.shard_name(index)
        artifacts.write_tensors(path, parts[-1], {})
        entries.append({"file": path.name, "sha256": artifacts.sha256_file(path)})
    conditions = folder / pairs.CONDITIONS
    table = {"text": torch.randn(2, 4, 5, generator=rng)}
    artifacts.write_tensors(conditions, table, {"captions": ["", "a"]})
    manifest = folder / pairs.MANIFEST
    artifacts.write_json(manifest, {
        "shards": entries, "edges": [1.0, 0.5, 0.0], "teacher": {"name": "t", "sha256": "0"},
        "conditions": {"file": conditions.name, "sha256": artifacts.sha256_file(conditions)},
    })  # fmt: skip
    return manifest, {name: torch.cat([part[name] for part in parts]) for name in parts[0]} | table


def test_what_is_read_is_what_was_written_in_the_order_asked_for(tmp_path):
    manifest, written = write(tmp_path, [5, 1, 0, 7])
    cache = PairCache.load(manifest)
    assert len(cache) == 13
    for index in (slice(None), slice(4, 7), torch.tensor([12, 0, 5, 5, 4, 6, 7]), written["k"] == 1, torch.tensor([])):
        index = index.long() if isinstance(index, torch.Tensor) and not len(index) else index
        assert torch.equal(cache.start[index], written["start"][index])
    at = torch.randint(13, (40,), generator=torch.Generator().manual_seed(1))
    batch = cache.batch(at)
    assert torch.equal(batch.end, written["end"][at])
    assert torch.equal(batch.k, written["k"][at].long())
    assert torch.equal(batch.condition["text"], written["text"][written["caption"][at].long()])


@pytest.mark.parametrize("shards", [1, 200])
def test_what_is_read_does_not_grow_with_the_number_of_pairs(shards, tmp_path, monkeypatch):
    """Counted in bytes: eight a pair to open a cache, then a batch's own rows; more shards than files kept open."""
    manifest, _ = write(tmp_path, [10] * shards)
    read = []
    before = stored._read
    monkeypatch.setattr(stored, "_read", lambda file, buffer, at: read.append(len(buffer)) or before(file, buffer, at))
    monkeypatch.setattr(stored, "_SMALL", 0)
    cache = PairCache.load(manifest)
    assert sum(read) == 8 * 10 * shards
    read.clear()
    for step in range(3):
        cache.batch(torch.randint(len(cache), (16,), generator=torch.Generator().manual_seed(step)))
    assert sum(read) == 3 * 16 * 4 * (2 * 2 * 3 + 4 * 5)
    assert cache.start.files.open.cache_info().currsize <= stored._FILES


def test_small_tables_are_read_once_and_give_the_same_rows(tmp_path, monkeypatch):
    manifest, written = write(tmp_path, [10] * 3)
    read = []
    before = stored._read
    monkeypatch.setattr(stored, "_read", lambda file, buffer, at: read.append(len(buffer)) or before(file, buffer, at))
    held, streamed = PairCache.load(manifest), PairCache.load(manifest)
    read.clear()
    for step in range(5):
        at = torch.randint(len(held), (16,), generator=torch.Generator().manual_seed(step))
        assert torch.equal(held.batch(at).start, written["start"][at])
        assert torch.equal(held.batch(at).condition["text"], written["text"][written["caption"][at].long()])
    assert sum(read) == 4 * (30 * 2 * 2 * 3 + 2 * 4 * 5)
    monkeypatch.setattr(stored, "_SMALL", 4 * 30 * 2 * 3 - 1)
    assert torch.equal(streamed.batch(at).end, held.end[:][at])
    rows = held.start[at]
    rows.zero_()  # is the reader's own
    assert torch.equal(held.start[at], written["start"][at])


def test_a_shard_cut_off_while_it_is_in_use_is_named(tmp_path):
    manifest, _ = write(tmp_path, [5])
    cache = PairCache.load(manifest)
    shard = tmp_path / pairs.shard_name(0)
    with open(shard, "r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    with pytest.raises(PerflowError, match=r"shard-00000.safetensors: shorter than its header says"):
        cache.start[:], cache.end[:]


def test_each_of_several_processes_checks_its_share_and_together_all(tmp_path):
    manifest, _ = write(tmp_path, [5, 5, 5])
    shard = tmp_path / pairs.shard_name(2)
    data = bytearray(shard.read_bytes())
    data[artifacts.layout(shard)["start"].offset] ^= 1
    shard.write_bytes(data)
    shares = [slice(own, None, 3) for own in range(3)]  # of the four files, the first being the conditions
    for sound in shares[1:]:
        PairCache.load(manifest, share=sound)
    with pytest.raises(PerflowError, match=r"shard-00002.safetensors: altered or truncated"):
        PairCache.load(manifest, share=shares[0])
