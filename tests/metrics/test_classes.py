"""The score of classes: its ends in closed form, a case by hand, what is left out, whose classes they are."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import nn
from torch.nn import functional

from perflow.errors import PerflowError
from perflow.metrics import scripted
from perflow.metrics.classes import inception_score
from perflow.metrics.features import Extractor
from perflow.metrics.trial import Trial
from tests.metrics.conftest import image_set, without
from tests.metrics.test_intervals import coverage, nominal
from tests.metrics.test_scripted import Own, Small, saved


def trial(*probabilities, samples=None):
    """Images whose features are their probabilities, of one attribute or several."""
    widths = np.cumsum([part.shape[1] for part in probabilities])[:-1]
    samples = samples or image_set(np.concatenate(probabilities, axis=1), per_prompt=2)
    names = [f"attribute {i}" for i in range(len(probabilities))]

    def classify(features):
        return dict(zip(names, np.split(features, widths, axis=1), strict=True))

    return Trial(samples, samples, samples, samples, {}, classify)


def test_images_that_look_like_anything_score_one():
    assert inception_score(trial(np.full((16, 5), 0.2))).value == pytest.approx(1)


def test_sure_images_of_every_class_equally_often_score_their_number():
    assert inception_score(trial(np.eye(5)[np.arange(40) % 5])).value == pytest.approx(5)


def test_sure_images_of_one_class_score_one():
    assert inception_score(trial(np.eye(5)[np.zeros(16, int)])).value == pytest.approx(1)


def test_a_case_by_hand():
    """Rows (1, 0) and (1/2, 1/2): p(y) = (3/4, 1/4); the mean KL is (ln 4/3 + ln 2/3 / 2 + ln 2 / 2) / 2."""
    found = inception_score(trial(np.array([[1, 0], [0.5, 0.5]]).repeat(4, 0)))
    assert found.value == pytest.approx((4 / 3 * np.sqrt(4 / 3)) ** 0.5)


def test_it_is_the_mean_divergence_from_the_mean_as_scipy_has_it(rng):
    p = rng.dirichlet(np.ones(7), 40)
    expected = np.exp(np.mean([entropy(row, p.mean(0)) for row in p]))
    assert 1.2 < expected < 7
    assert inception_score(trial(p)).value == pytest.approx(expected)


def test_several_attributes_are_their_combinations(rng):
    one, other = rng.dirichlet(np.ones(3), 40), rng.dirichlet(np.ones(4), 40)
    joint = np.stack([np.outer(*rows).ravel() for rows in zip(one, other, strict=True)])
    assert inception_score(trial(one, other)).value == pytest.approx(inception_score(trial(joint)).value)


def test_replicates_leave_prompts_out(rng):
    whole = trial(rng.dirichlet(np.ones(4), 44))
    found = inception_score(whole)
    assert len(found.replicates) == 4
    for group, replicate in enumerate(found.replicates):
        samples = without(whole.samples, group)
        assert replicate == pytest.approx(inception_score(trial(samples.features, samples=samples)).value)


def test_coverage_is_nominal_also_where_images_of_a_prompt_resemble_each_other(rng):
    def draw():
        logits = 2 * rng.standard_normal((60, 5)).repeat(4, 0) + rng.standard_normal((240, 5))
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return inception_score(trial(p, samples=image_set(p, per_prompt=4, groups=20)))

    assert nominal(coverage(draw))


def test_the_classifiers_classes_are_what_its_heads_say(rng):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Extractor({"digit": list("0123456789"), "fg": ["red", "green"]}, 16).eval()
    images = rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    network.standardise(images)
    features, labels = network.observe(images)
    found = network.classify(features)
    with torch.no_grad():
        _, logits = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    assert found.keys() == labels.keys()
    for name, part in logits.items():
        np.testing.assert_allclose(found[name], part.double().softmax(1), atol=1e-6)
        assert (found[name].argmax(1) == labels[name]).all()


class Whole(Small):
    """Small with the layer of classes that FID's Inception has, and the way there that its program offers."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(2048, 1008)

    @torch.jit.export
    def without_bias(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(functional.linear(self.layers(x), self.output.weight), 1)


class Telling(Own):
    """A user's program that tells the brightest colour."""

    @torch.jit.export
    def logits(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, :3] / 10


def test_inceptions_classes_are_its_softmax_without_bias(tmp_path, rng):
    images = rng.integers(0, 256, (3, 299, 299, 3), dtype=np.uint8)
    path = saved(Whole, tmp_path / "inception.pt")
    network = scripted.restore_inception(scripted.tensors(path), {})
    found = network.classify(network.observe(images)[0])["class"]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    wanted = torch.jit.load(str(path)).without_bias((pixels - 128) / 128)
    np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-4)
    np.testing.assert_allclose(found.sum(1), 1)


def test_a_users_program_tells_classes_by_its_own_method(tmp_path):
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[0, ..., 1], images[1, ..., 2] = 10, 20
    network = scripted.restore(scripted.tensors(saved(Telling, tmp_path / "own.pt")), {})
    found = network.classify(network.observe(images)[0])["class"]
    np.testing.assert_allclose(found, np.exp([[0, 1, 0], [0, 0, 2]]) / [[2 + np.e], [2 + np.e**2]], rtol=1e-6)


def test_a_program_without_classes_is_refused_in_one_line(tmp_path):
    inception = scripted.restore_inception(scripted.tensors(saved(Small, tmp_path / "a.pt")), {})
    own = scripted.restore(scripted.tensors(saved(Own, tmp_path / "b.pt")), {})
    with pytest.raises(PerflowError, match="no layer 'output'"):
        inception.classify(np.zeros((1, 2048)))
    with pytest.raises(PerflowError, match="no method 'logits'"):
        own.classify(np.zeros((1, 4)))
