import torch

from trainables import models
from trainables.soft_labels import Online, Table

CPU = torch.device("cpu")


def _logits(views):
    """Logits that name their own view, sample and class."""
    view, sample, label = torch.meshgrid(
        torch.arange(views), torch.arange(6), torch.arange(3), indexing="ij"
    )
    return (100 * view + 10 * sample + label).half()


def test_a_table_answers_for_the_view_and_the_kept_sample():
    table = Table(_logits(4), kept=torch.tensor([1, 3, 5]), device=CPU)
    logits = table(torch.tensor([2, 0, 2]), torch.tensor([3, 0, 1]), torch.empty(3, 1, 2, 2))
    assert logits.dtype == torch.float32
    assert logits.tolist() == [[350, 351, 352], [10, 11, 12], [150, 151, 152]]


def test_a_table_of_one_view_answers_the_same_for_all():
    table = Table(_logits(1), kept=torch.tensor([0, 4]), device=CPU)
    logits = table(torch.tensor([1, 1]), torch.tensor([3, 161]), torch.empty(2, 1, 2, 2))
    assert logits.tolist() == [[40, 41, 42]] * 2


def test_on_another_device_only_the_kept_part_is_copied():
    kept = torch.tensor([1, 3])
    table = Table(_logits(4), kept, torch.device("meta"))
    assert table._logits.shape == (4, 2, 3)
    assert table._logits.device.type == "meta"


def test_a_teacher_that_is_asked_neither_learns_nor_sees_its_neighbours():
    model = models.build("cnn4", (1, 8, 8), 10, 0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    online, images = Online(model), torch.randn(4, 1, 8, 8)
    index = torch.arange(4)
    together = online(index, index, images)
    alone = torch.cat(
        [online(index[i : i + 1], index[i : i + 1], images[i : i + 1]) for i in index]
    )
    assert not together.requires_grad
    assert torch.allclose(together, alone, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
