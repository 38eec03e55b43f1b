"""A feature network looks at a set block by block as it would at the whole, and once, whoever asks."""

import weakref

import numpy as np
import pytest
import torch

from perflow import ahead
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.images import png
from perflow.metrics import clip, looking
from perflow.metrics.features import Extractor
from perflow.metrics.looking import Looks, Viewer, expect
from perflow.metrics.squeezenet import SqueezeNet
from perflow.metrics.standardised import Standardised
from tests.tiny_clip import tiny_clip


class Means(Looks):
    """The mean of each colour, and whether red leads."""

    values = {"leads": ["no", "yes"]}

    def __init__(self):
        self.looked, self.most = 0, 0

    def look(self, prepared):
        self.looked, self.most = self.looked + 1, max(self.most, len(prepared))
        features = prepared.mean((1, 2)).astype(np.float64)
        return features, {"leads": (features.argmax(1) == 0).astype(np.int64)}


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)


def encoded(images):
    return [png(image) for image in images]


def test_features_are_kept_by_network_and_images(tmp_path, images):
    network = Means()
    wanted = Means().observe(images)
    for _ in range(3):
        features, labels = Viewer(network, "cpu", "a" * 64, tmp_path).see(encoded(images))
        assert (features == wanted[0]).all()
        assert features.dtype == np.float64
        assert (labels["leads"] == wanted[1]["leads"]).all()
    assert network.looked == 1
    Viewer(network, "cpu", "b" * 64, tmp_path).see(encoded(images))
    Viewer(network, "cpu", "a" * 64, tmp_path).see(encoded(images[:4]))
    Viewer(network, "cpu", "a" * 64, tmp_path).see(encoded(images.reshape(5, 2, 8, 3)))
    assert network.looked == 4
    assert len(list(tmp_path.iterdir())) == 4
    Viewer(network).see(encoded(images))
    assert len(list(tmp_path.iterdir())) == 4


def test_kept_features_are_not_decoded_again(tmp_path, images):
    viewer = Viewer(Means(), "cpu", "a" * 64, tmp_path)
    wanted, _ = viewer.see(encoded(images))

    def never(data):
        raise AssertionError("decoded")

    assert (viewer.see(encoded(images), never)[0] == wanted).all()


def test_a_file_that_is_broken_or_altered_is_made_again(tmp_path, images):
    viewer = Viewer(Means(), "cpu", "a" * 64, tmp_path)
    wanted, _ = viewer.see(encoded(images))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for broken in (whole[:-8], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(broken)
        assert (viewer.see(encoded(images))[0] == wanted).all()
        assert path.read_bytes() == whole


@pytest.mark.parametrize("threads", [0, 3])
def test_a_set_is_seen_block_by_block_as_it_is_at_once(rng, monkeypatch, threads):
    """To the bit, also where the network computes in chunks that it pads; and no more than a block is held."""
    monkeypatch.setattr(looking, "helpers", lambda device: threads)
    images = rng.integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Extractor({"digit": ["0", "1", "2"]}, 16).eval()
    wanted, labels = network.observe(images)
    found, told = Viewer(network).see(encoded(images))
    assert (found == wanted).all()
    assert (told["digit"] == labels["digit"]).all()
    means = Means()
    Viewer(means).see(encoded(images))
    assert (means.looked, means.most) == (3, 128)


def test_an_image_that_cannot_be_read_is_named_by_whoever_decodes(images):
    def decode(data):
        try:
            return store.decode(data)
        except OSError:
            raise PerflowError("the third one") from None

    with pytest.raises(PerflowError, match="the third one"):
        Viewer(Means()).see([*encoded(images[:2]), b"none"], decode)


@pytest.mark.parametrize(
    ("dtype", "shape"), [(np.float32, (4, 5, 3)), (np.uint8, (4, 5)), (np.uint8, (5, 4, 3)), (np.uint8, (4, 5, 1))]
)
def test_what_a_network_cannot_read_is_one_line(dtype, shape):
    with pytest.raises(PerflowError, match=r"own: images are .* \(\d, .*\), it reads uint8 \(4, W, 3\)"):
        expect("own", np.zeros(shape, dtype), 4, "W", 3)
    expect("own", np.zeros((4, 9, 3), np.uint8), 4, "W", 3)


def test_a_cpu_lends_no_threads_and_a_gpu_all_cores(monkeypatch):
    monkeypatch.setattr(ahead.os, "sched_getaffinity", lambda process: range(40))
    assert (ahead.helpers("cpu"), ahead.helpers("cuda")) == (0, 16)


def test_sets_of_no_images_or_of_several_sizes_are_one_line_that_names_them(images):
    with pytest.raises(PerflowError, match="a set: there are no images"):
        Viewer(Means()).see([], where="a set")
    large = np.zeros((9, 7, 3), np.uint8)
    for before in (images, np.zeros((128, 4, 4, 3), np.uint8)):  # in one block, and in the next
        with pytest.raises(
            PerflowError, match="a set: images of 4 x 4 and 7 x 9 pixels; those of one set have one size"
        ):
            Viewer(Means()).see([*encoded(before), png(large)], where="a set")


@pytest.mark.parametrize("threads", [0, 3])
def test_a_few_blocks_are_held_however_many_images_there_are(monkeypatch, threads):
    """Counted in decoded images that are alive: a block, the one being gathered, and what waits for the threads."""
    monkeypatch.setattr(looking, "helpers", lambda device: threads)
    alive, most = [0], [0]

    def decode(number):
        image = np.full((4, 4, 3), number % 256, np.uint8)
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        weakref.finalize(image, lambda: alive.__setitem__(0, alive[0] - 1))
        return image

    features, _ = Viewer(Means()).see(range(2000), decode)
    assert (features[:, 0] == np.arange(2000) % 256).all()
    assert most[0] <= 2 * 128 + threads * 16 + threads + 1


def on_meta(kind, folder):
    """A network of a kind on torch's device "meta", the images it looks at, and how many features it gives."""
    if kind == "own":
        return Extractor({"digit": ["0", "1", "2"]}, 16).eval().to("meta"), (16, 16, 3), 64
    if kind == "clip":
        weights = tiny_clip(folder / "model", ["a", "seven"]) / "model.safetensors"
        return clip.restore(clip.tensors(weights), {}).to("meta"), (40, 40, 3), 8
    network = SqueezeNet().eval()
    if kind == "standardised":
        network = Standardised(network, np.zeros(512), np.ones(512))
    return network.to("meta"), (20, 30, 3), 512


@pytest.mark.parametrize("kind", ["own", "squeezenet", "standardised", "clip"])
def test_a_network_on_a_device_takes_there_what_it_looks_at_and_gives_back_what_it_sees(kind, tmp_path, monkeypatch):
    """ "meta" has no numbers: whoever reads one fails, and zeros stand for what is brought back to the CPU."""
    network, shape, size = on_meta(kind, tmp_path)
    brought, taken = torch.Tensor.cpu, []

    def cpu(tensor):
        taken.append(tensor.is_meta)
        return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else brought(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    features, labels = Viewer(network).see(encoded(np.zeros((130, *shape), np.uint8)))
    assert (features.shape, features.dtype, any(taken)) == ((130, size), np.float64, True)
    assert set(labels) == ({"digit"} if kind == "own" else set())
