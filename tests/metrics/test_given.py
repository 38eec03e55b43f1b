"""A file of features is read as it stands, runs nothing, and is refused in one line where it is no such file."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch
from cleanfid.fid import frechet_distance
from safetensors.torch import save_file

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.images import png
from perflow.metrics import distance, given
from perflow.metrics.looking import Looks, Viewer
from perflow.metrics.trial import Images, Trial

ABOUT = {"name": "v3", "sha256": "a" * 64, "weights": {"name": "inception.pt", "sha256": "b" * 64}}


@pytest.fixture
def features(rng):
    return rng.standard_normal((60, 5)).astype(np.float32)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("name", ["features", "feats"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_gives_its_rows_as_they_are(tmp_path, features, save, name):
    path = tmp_path / "mine.npz"
    save(path, **{name: features})
    found = given.read(path)
    assert (found.features == features).all()
    assert found.features.dtype == np.float64
    assert (found.count, found.moments, found.maker) == (60, None, None)
    assert found.sha256 == artifacts.sha256_file(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_safetensors_file_gives_its_rows_as_they_are(tmp_path, features, dtype):
    tensor = torch.from_numpy(features).to(dtype)
    save_file({"features": tensor, "labels": torch.arange(60)}, tmp_path / "mine.safetensors")
    assert (given.read(tmp_path / "mine.safetensors").features == tensor.double().numpy()).all()


def test_statistics_give_the_distance_that_clean_fid_gives_for_them(tmp_path, features, rng):
    real = rng.standard_normal((80, 5)) * 2 + 1
    mu, sigma = real.mean(0), np.cov(real, rowvar=False)
    known = given.read(npz(tmp_path / "real.npz", mu=mu, sigma=sigma))
    samples = Images(features.astype(np.float64), {}, groups=np.arange(60) % 4)
    found = distance.fd_real(Trial(samples, samples, samples, known.images(5), {}))
    theirs = frechet_distance(features.mean(0, dtype=float), np.cov(features, rowvar=False), mu, sigma)
    assert found.value == pytest.approx(theirs, rel=1e-6)
    whole = distance.fd_real(Trial(samples, samples, samples, Images(real, {}), {}))
    assert found.value == pytest.approx(whole.value, rel=1e-12)
    np.testing.assert_allclose(found.replicates, whole.replicates, rtol=1e-12)
    assert (known.count, known.features.shape) == (None, (0, 5))


def test_what_a_network_looked_at_once_is_such_a_file_and_says_who_made_it(tmp_path, rng):
    class Means(Looks):
        def look(self, prepared):
            return prepared.mean((1, 2)).astype(np.float64), {}

    images = rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    wanted, _ = Viewer(Means(), "cpu", ABOUT["sha256"], tmp_path).see([png(image) for image in images])
    (kept,) = tmp_path.iterdir()
    found = given.read(kept)
    assert (found.features == wanted).all()
    assert found.by(None, ABOUT, None).said == {"made_by": "v3", "said_by": "the file"}


def test_the_file_or_its_user_says_who_made_it_and_neither_may_say_another(tmp_path, features):
    silent = given.read(npz(tmp_path / "silent.npz", features=features))
    assert silent.by(None, ABOUT, "v3").said == {"made_by": "v3", "said_by": "the user"}
    for maker in ("a" * 64, "b" * 64):
        saying = given.read(npz(tmp_path / "saying.npz", features=features, extractor=maker))
        assert saying.by(None, ABOUT, None).said == saying.by(None, ABOUT, "v3").said
        assert saying.by(None, ABOUT, None).said["said_by"] == "the file"
    other = given.read(npz(tmp_path / "other.npz", features=features, extractor="c" * 64))
    with pytest.raises(PerflowError, match="silent.npz: does not say which network made it"):
        silent.by(None, ABOUT, None)
    with pytest.raises(PerflowError, match="silent.npz: features by 'clip'; everything here is measured by 'v3'"):
        silent.by(None, ABOUT, "clip")
    for named in (None, "v3"):
        with pytest.raises(PerflowError, match="other.npz: says that the network cccccccccccc made it; 'v3' is a{12}"):
            other.by(None, ABOUT, named)
    with pytest.raises(PerflowError, match="silent.npz: features have 5 dimensions; the extractor's have 2048"):
        silent.images(2048)


def broken(value):
    array = np.ones((4, 3))
    array[2, 1] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"other": np.ones((4, 3))}, r"holds 'other'; a file of features holds 'features' \(or 'feats'\) \[N, D\], or"),
        ({"features": np.ones((4, 3)), "feats": np.ones((4, 3))}, "holds 'feats', 'features'; a file of"),
        ({"mu": np.ones(3)}, "holds 'mu'; a file of features holds"),
        ({"features": np.ones((4, 3), np.int64)}, "'features' is int64; features are floats"),
        ({"features": np.ones(4)}, r"'features' is \[4\]; features are \[N, D\]"),
        ({"features": np.ones((0, 3))}, r"'features' is \[0, 3\]; features are \[N, D\]"),
        ({"features": broken(np.nan)}, r"'features' has values that are not finite, the first at \[2, 1\]"),
        ({"features": broken(np.inf)}, r"'features' has values that are not finite, the first at \[2, 1\]"),
        ({"mu": np.ones(3), "sigma": np.eye(2)}, r"'mu' is \[3\] and 'sigma' \[2, 2\]; a mean is \[D\]"),
        ({"mu": np.ones(3), "sigma": np.triu(np.ones((3, 3)))}, "'sigma' is not symmetric, as a covariance is"),
        ({"features": np.ones((4, 3)), "extractor": np.ones(1)}, r"'extractor' is float64 \[1\]; it is text"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_refused_in_one_line(tmp_path, arrays, says):
    with pytest.raises(PerflowError, match=says) as caught:
        given.read(npz(tmp_path / "mine.npz", **arrays))
    assert str(tmp_path / "mine.npz") in str(caught.value)


def test_what_stands_in_an_npz_is_never_run(tmp_path, features):
    class Trap:
        def __reduce__(self):
            return print, ("run",)

    with pytest.raises(PerflowError, match=r"'features.npy' is no array of numbers \(Object arrays cannot be loaded"):
        given.read(npz(tmp_path / "mine.npz", features=np.array([Trap(), Trap()], dtype=object)))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (2**50, 4), "fortran_order": False, "descr": "<f8"})
    for data in (header.getvalue(), header.getvalue()[:20], b"", b"\x93NUMPY"):
        with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
            archive.writestr("features.npy", data)
        with pytest.raises(PerflowError, match="'features.npy' is no array of numbers"):
            given.read(tmp_path / "mine.npz")
    for name, data in (("mine.npz", b"text"), ("mine.safetensors", b"text")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PerflowError, match=name):
            given.read(tmp_path / name)
    with pytest.raises(PerflowError, match="gone.npz: no such file of features"):
        given.read(tmp_path / "gone.npz")
    path = npz(tmp_path / "mine.npz", features=features)
    with pytest.raises(PerflowError, match=f"has sha256 {artifacts.sha256_file(path)}; the study asks for 0000"):
        given.read(path, "0" * 64)
