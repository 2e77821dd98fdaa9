import subprocess
import sys

import pytest

from trainables import models
from trainables.config import MODEL_FAMILIES
from trainables.costs import PRICES, count_flops, forward_flops, parameters


def test_operations_are_those_of_the_products_counted_by_hand():
    """Two for each weight and position: a multiplication and an addition."""
    products = 28 * 28 * 9 * 1 * 16 + 14 * 14 * 9 * 16 * 32 + 8 * 16 * 10
    assert forward_flops("cnn16", (1, 28, 28), 10) == 2 * products


@pytest.mark.parametrize("name", MODEL_FAMILIES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 29, 15)])
def test_operations_of_our_networks_are_what_torch_counts(name, shape):
    assert forward_flops(name, shape, 7) == count_flops(name, shape, 7)


@pytest.mark.parametrize("name", MODEL_FAMILIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_parameters_of_our_networks_are_those_that_torch_trains(name, channels):
    model = models.build(name, (channels, 16, 16), 7, seed=0)
    assert parameters(name, channels, 7) == sum(weight.numel() for weight in model.parameters())


def test_the_size_of_other_networks_is_not_known():
    assert parameters("torchvision:resnet50", 3, 10) is None


@pytest.mark.parametrize(
    ("name", "millions"), [("resnet20", 41), ("resnet56", 127), ("wrn-40-2", 328)]
)
def test_operations_are_the_published_ones(name, millions):
    """Multiplications of a 32x32 image: He et al. 2016 and Zagoruyko & Komodakis 2016."""
    assert forward_flops(name, (3, 32, 32), 10) / 2e6 == pytest.approx(millions, rel=0.02)


def test_every_network_of_ours_has_its_price_without_torch():
    assert set(PRICES) == set(MODEL_FAMILIES)
    code = (
        "import sys; from trainables.costs import forward_flops as f; f('resnet8', (3, 9, 9), 2); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_models_of_torchvision_are_counted_too():
    assert forward_flops("torchvision:squeezenet1_1", (3, 64, 64), 10) > 1e6


def test_unknown_models_are_named():
    with pytest.raises(ValueError, match="unknown model 'resnet21'"):
        forward_flops("resnet21", (3, 32, 32), 10)
