import pytest
import torch

from trainables.config import MODEL_FAMILIES
from trainables.models import MODELS, build, count_parameters


def test_configuration_and_table_know_the_same_models():
    assert tuple(MODELS) == MODEL_FAMILIES


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28)])
def test_models_map_images_to_logits(name, shape):
    logits = build(name, shape, 7, seed=0)(torch.zeros(2, *shape))
    assert logits.shape == (2, 7)


def test_initial_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    one, two, other = (build("cnn8", (1, 8, 8), 10, seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_capacity_grows_with_width():
    counts = [count_parameters(build(name, (1, 8, 8), 10, 0)) for name in MODELS]
    assert counts == sorted(counts)


def test_unknown_model_lists_the_known():
    with pytest.raises(ValueError, match=r"'vgg'.*cnn4, cnn8"):
        build("vgg", (1, 8, 8), 10, 0)
