import math

import pytest
import torch

from trainables.distillation import distillation_loss

NAN = torch.full((1, 2), math.nan)


def test_loss_has_the_value_computed_by_hand():
    # Student probabilities 1/4, 3/4 at τ=1; at τ=2 odds of sqrt(3). Teacher even at any τ.
    logits = torch.tensor([[0.0, math.log(3.0)]])
    loss = distillation_loss(logits, torch.tensor([0]), torch.zeros(1, 2), 0.3, 2.0)
    ce = math.log(4.0)
    low = 1 / (1 + math.sqrt(3.0))
    kl = 0.5 * math.log(0.5 / low) + 0.5 * math.log(0.5 / (1 - low))
    assert loss.ce is not None
    assert loss.kd is not None
    assert loss.ce.item() == pytest.approx(ce, rel=1e-6)
    assert loss.kd.item() == pytest.approx(4 * kl, rel=1e-5)
    assert loss.total.item() == pytest.approx(0.7 * ce + 0.3 * 4 * kl, rel=1e-6)


def test_divergence_runs_from_teacher_to_student():
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    p, q = torch.softmax(teacher, 1), torch.softmax(student, 1)
    loss = distillation_loss(student, torch.tensor([0]), teacher, 1.0, 1.0)
    assert loss.total.item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-6)


def test_batch_is_averaged_and_classes_summed():
    logits, teacher = torch.randn(5, 3), torch.randn(5, 3)
    labels = torch.tensor([0, 1, 2, 0, 1])
    whole = distillation_loss(logits, labels, teacher, 0.5, 3.0).total
    each = [
        distillation_loss(logits[i : i + 1], labels[i : i + 1], teacher[i : i + 1], 0.5, 3.0).total
        for i in range(5)
    ]
    assert whole.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-6)


def test_at_weight_0_a_broken_teacher_is_not_looked_at():
    loss = distillation_loss(torch.zeros(1, 2), torch.tensor([0]), NAN, 0.0, 4.0)
    assert loss.total.item() == pytest.approx(math.log(2.0))
    assert loss.kd is None


def test_at_weight_1_labels_are_not_looked_at():
    out_of_range = torch.tensor([99])
    loss = distillation_loss(torch.zeros(1, 2), out_of_range, torch.zeros(1, 2), 1.0, 4.0)
    assert loss.total.item() == pytest.approx(0.0)
    assert loss.ce is None


def test_equal_logits_do_not_diverge():
    logits = torch.randn(4, 6)
    loss = distillation_loss(logits, torch.zeros(4, dtype=torch.long), logits, 1.0, 5.0)
    assert loss.total.item() == pytest.approx(0.0, abs=1e-6)


def test_a_positive_weight_needs_a_teacher():
    with pytest.raises(ValueError, match="teacher"):
        distillation_loss(torch.zeros(1, 2), torch.tensor([0]), None, 0.5, 4.0)


def test_mixed_gradient_is_the_mixture_of_both_gradients():
    """`(1 - α)(p - y) + α τ (p_τ - q_τ)`, mean over the batch."""
    logits, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    labels = torch.tensor([0, 1, 2, 1])
    distillation_loss(logits, labels, teacher, 0.3, 5.0).total.backward()
    z = logits.detach()
    of_labels = z.softmax(1) - torch.eye(3)[labels]
    of_teacher = 5.0 * ((z / 5.0).softmax(1) - (teacher / 5.0).softmax(1))
    assert torch.allclose(logits.grad, (0.7 * of_labels + 0.3 * of_teacher) / 4, atol=1e-6)


def test_detached_values_have_no_history():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = distillation_loss(logits, torch.tensor([0, 1]), torch.randn(2, 3), 0.5, 2.0)
    assert [part.requires_grad for part in loss.detach()] == [False] * 3
    assert loss.detach().total.item() == loss.total.item()
    assert distillation_loss(logits, torch.tensor([0, 1]), None, 0.0, 2.0).detach().kd is None
