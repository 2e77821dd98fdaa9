"""A confirmation's student: trained as a trial is, judged on test once it has ended."""

import pytest
import torch
import torch.nn.functional as F

from trainables import cache, checkpoint, confirmation, datasets, record
from trainables.augment import AUGMENTATIONS, Images
from trainables.config import ImageDataset, Recipe, RidgeDataset, TrialConfig, student_key
from trainables.confirmation import require_test, student_file, train_again, train_and_test
from trainables.held_out import load_test
from trainables.problem import open_training
from trainables.training import train

CONFIG = TrialConfig(
    dataset=ImageDataset(name="digits", validation=0.3),
    student="cnn4",
    recipe=Recipe(epochs=4, batch_size=32, lr=0.05),
    method="random",
    fraction=0.2,
    teacher="cnn4",
    kd_weight=0.0,
    seed=record.SEEDS_OF_TRIALS,
)


def lasting(metrics):
    return {k: v for k, v in metrics.items() if k not in record.MACHINE_METRICS}


def test_it_is_trained_as_a_trial_and_its_kept_weights_give_its_test_metrics(tmp_path):
    metrics = train_and_test(CONFIG, tmp_path / "cache", weights=tmp_path / "weights")
    alone = train(open_training(CONFIG, tmp_path / "cache"))
    assert lasting(alone).items() <= lasting(metrics).items()

    training = open_training(CONFIG, tmp_path / "cache")
    state, _ = cache.load(tmp_path / "weights", student_file(student_key(CONFIG)))
    training.model.load_state_dict(state)
    splits = datasets.load(CONFIG.dataset, tmp_path / "cache")
    images, labels = load_test(CONFIG.dataset)
    rendered = Images(images, splits.mean, splits.std, AUGMENTATIONS["none"])
    with torch.no_grad():
        logits = training.model.eval()(rendered.render(torch.arange(len(labels))))
    assert metrics[record.TEST_ACCURACY] == (logits.argmax(1) == labels).float().mean().item()
    assert metrics[record.TEST_NLL] == pytest.approx(F.cross_entropy(logits, labels).item(), 1e-5)
    # At the temperature of the validation split: one of its own would have seen the labels.
    scaled = F.cross_entropy(logits / metrics[record.VAL_TEMPERATURE], labels).item()
    assert metrics[record.TEST_NLL_SCALED] == pytest.approx(scaled, 1e-5)


def test_what_was_cut_off_goes_on_from_its_checkpoint_bit_for_bit(tmp_path, monkeypatch):
    whole = train_and_test(CONFIG, tmp_path / "cache")
    folder = tmp_path / "checkpoints" / "student"
    save = checkpoint.save

    def killed(folder, epoch, state, reports):
        save(folder, epoch, state, reports)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(confirmation.checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_and_test(CONFIG, tmp_path / "cache", checkpoints=folder, checkpoint_every_s=0.0)
    monkeypatch.undo()
    trained = []
    opened = confirmation.open_training

    def counted(*arguments):
        training = opened(*arguments)
        step = training.step
        training.step = lambda: trained.append(training.epoch) or step()
        return training

    monkeypatch.setattr(confirmation, "open_training", counted)
    again = train_and_test(CONFIG, tmp_path / "cache", checkpoints=folder, checkpoint_every_s=0.0)
    assert lasting(again) == lasting(whole)
    assert trained == [2, 3], "the first two epochs were not trained again"
    assert not folder.exists()


def test_trained_again_for_its_weights_it_never_asks_for_test_data(tmp_path, monkeypatch):
    first = train_and_test(CONFIG, tmp_path / "cache", weights=tmp_path / "first")
    monkeypatch.setattr(confirmation, "load_test", lambda *_: pytest.fail("test data were read"))
    again = train_again(CONFIG, tmp_path / "cache", tmp_path / "again")
    assert lasting(again).items() <= lasting(first).items()
    (one,), (other,) = ((tmp_path / name).glob("*.safetensors") for name in ("first", "again"))
    states = [cache.load(path.parent, path.stem)[0] for path in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_closed_form_problem_is_judged_on_its_population(tmp_path):
    config = CONFIG.model_copy(
        update={"dataset": RidgeDataset(name="ridge"), "student": "linear", "teacher": "linear"}
    )
    metrics = train_and_test(config, tmp_path)
    assert metrics[record.TEST_R2] == metrics[record.VAL_R2]
    assert require_test(config, tmp_path) == 0
    assert require_test(CONFIG, tmp_path) == 360
