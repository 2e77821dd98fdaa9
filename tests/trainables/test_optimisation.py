import pytest
import torch
from torch import nn

from trainables.config import Recipe
from trainables.optimisation import (
    batch_sizes,
    lay_out_like_parameters,
    learning_rate,
    make_optimizer,
)


def _rates(steps=100, **recipe):
    return [learning_rate(Recipe(epochs=1, lr=0.2, **recipe), step, steps) for step in range(steps)]


def test_learning_rate_falls_along_the_cosine_to_almost_nothing():
    rates = _rates()
    assert rates[0] == 0.2
    assert rates[25] == pytest.approx(0.2 * (1 + 0.5**0.5) / 2)
    assert rates[50] == pytest.approx(0.1)
    assert rates[-1] < 1e-4
    assert rates == sorted(rates, reverse=True)


def test_constant_learning_rate_stays():
    assert set(_rates(lr_schedule="constant")) == {0.2}


def test_multistep_multiplies_at_its_milestones():
    rates = _rates(lr_schedule="multistep", milestones=(0.3, 0.6, 0.9), gamma=0.5)
    assert rates[:30] == [0.2] * 30
    assert rates[30:60] == [0.1] * 30
    assert rates[60:90] == [0.05] * 30
    assert rates[90:] == [0.025] * 10


@pytest.mark.parametrize("schedule", ["cosine", "multistep", "constant"])
@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 10), (0.101, 11), (0.005, 1)])
def test_warm_up_rises_in_a_straight_line_to_the_learning_rate(schedule, warmup, steps):
    rates = _rates(lr_schedule=schedule, warmup=warmup)
    expected = [0.2 * (step + 1) / steps for step in range(steps)]
    assert rates[:steps] == pytest.approx(expected)
    assert rates[steps:] == _rates(lr_schedule=schedule)[steps:]


@pytest.mark.parametrize(
    ("samples", "size", "sizes"),
    [
        (10, 5, [5, 5]),
        (12, 5, [5, 5, 2]),
        (11, 5, [5, 4, 2]),
        (1, 5, [1]),
        (3, 1, [1, 1, 1]),
        (3, 2, [2, 1]),
        (4, 9, [4]),
    ],
)
def test_no_lone_last_sample_and_as_many_batches_as_the_recipe_counts(samples, size, sizes):
    assert batch_sizes(samples, size) == sizes
    assert len(sizes) == Recipe(epochs=1, batch_size=size).steps_per_epoch(samples)


def _moved(optimizer, parameter, gradients, rates):
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
    return parameter.item()


def test_sgd_moves_by_nesterovs_rule_with_decay():
    parameter = nn.Parameter(torch.tensor([2.0]))
    recipe = Recipe(epochs=1, momentum=0.5, weight_decay=0.1)
    w, velocity, rates = 2.0, 0.0, [0.1, 0.05, 0.2]
    found = _moved(make_optimizer([parameter], recipe), parameter, [1.0, -2.0, 0.5], rates)
    for gradient, rate in zip([1.0, -2.0, 0.5], rates, strict=True):
        decayed = gradient + 0.1 * w
        velocity = 0.5 * velocity + decayed
        w -= rate * (decayed + 0.5 * velocity)
    assert found == pytest.approx(w, rel=1e-6)


def test_adamw_decays_weights_apart_from_the_gradient():
    parameter = nn.Parameter(torch.tensor([2.0]))
    recipe = Recipe(epochs=1, optimizer="adamw", weight_decay=0.1)
    w, m, v = 2.0, 0.0, 0.0
    found = _moved(make_optimizer([parameter], recipe), parameter, [1.0, -2.0], [0.1, 0.05])
    for step, (gradient, rate) in enumerate(zip([1.0, -2.0], [0.1, 0.05], strict=True), 1):
        w *= 1 - rate * 0.1
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)) ** 0.5 + 1e-8)
    assert found == pytest.approx(w, rel=1e-5)


def test_restored_buffers_lie_in_memory_like_their_parameters():
    parameter = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    optimizer = make_optimizer([parameter], Recipe(epochs=1, optimizer="adamw"))
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    buffers = optimizer.state[parameter]
    values = {name: value.clone() for name, value in buffers.items()}
    buffers |= {name: value.contiguous() for name, value in buffers.items()}
    lay_out_like_parameters(optimizer)
    assert buffers["exp_avg"].stride() == parameter.stride() == buffers["exp_avg_sq"].stride()
    assert all(torch.equal(values[name], buffers[name]) for name in values)
