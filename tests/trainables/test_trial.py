import logging
import math
from types import SimpleNamespace

import pytest
import torch
from ray.tune.trainable import trainable as tune_trainable

from analysis.likelihood import scaled_nll
from analysis.logits import load_logits
from trainables import checkpoint, record, trial
from trainables.config import Recipe, RidgeDataset, TrialConfig

RIDGE = {
    "dataset": RidgeDataset(name="ridge"),
    "student": "linear",
    "teacher": "linear",
    "recipe": Recipe(epochs=9),
}
DIGITS = {
    "dataset": {"name": "digits", "label_noise": 0.2},
    "student": "cnn4",
    "teacher": "cnn4",
    "recipe": Recipe(epochs=9, batch_size=32, lr=0.05),
}
PROBLEMS = {"ridge": (RIDGE, record.VAL_R2), "digits": (DIGITS, record.VAL_ACCURACY)}
RUNGS = [3, 6]


@pytest.fixture(autouse=True)
def _logs_here(tmp_path, monkeypatch):
    """Without a cluster, Tune would make folders in the user's home."""
    monkeypatch.setattr(tune_trainable, "DEFAULT_STORAGE_PATH", str(tmp_path / "tune"))


@pytest.fixture
def one_epoch_a_step(monkeypatch):
    monkeypatch.setattr(trial, "REPORT_EVERY_S", -1.0)


@pytest.fixture
def only_rungs(monkeypatch):
    monkeypatch.setattr(trial, "REPORT_EVERY_S", math.inf)


@pytest.fixture
def make_config(tmp_path):
    """Tune's configuration of a trial that writes a checkpoint after every step."""

    def make(problem="ridge", number=5, kd_weight=0.4, **changes):
        values, objective = PROBLEMS[problem]
        config = TrialConfig(
            **{"method": "random", "fraction": 0.1, "kd_weight": kd_weight, "seed": 1, **values}
        )
        return {
            "trial": config.model_dump(mode="json"),
            "number": number,
            "rungs": RUNGS,
            "objective": objective,
            "cache": str(tmp_path / "cache"),
            "cpus": 1,
            "checkpoints": str(tmp_path / "checkpoints"),
            "checkpoint_every_s": 0.0,
            **changes,
        }

    return make


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints" / "trial-5"


def _start(config):
    running = trial.DistillationTrial(config)
    running.open()
    return running


def _finish(running):
    results = [running.train()]
    while not results[-1]["done"]:
        results.append(running.train())
    return results


def _epochs(result):
    return [report[record.EPOCH] for report in result["reports"]]


def _reports(results):
    timed = (record.SECONDS, record.SAMPLES_PER_S, record.PEAK_MEMORY_BYTES)
    return [
        {name: value for name, value in report.items() if name not in timed}
        for result in results
        for report in result["reports"]
    ]


def _weights(running):
    training = running._training
    if not hasattr(training, "model"):
        return torch.from_numpy(training.coefficients())
    return torch.cat([value.flatten().double() for value in training.model.state_dict().values()])


def _flip_last_byte(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def _newest(folder):
    return max(folder.glob("epoch-*.safetensors"))


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("steps", [1, 3, 4, 8])
def test_trial_taken_up_again_equals_the_undisturbed_one(
    make_config, one_epoch_a_step, problem, steps
):
    undisturbed = _start(make_config(problem, checkpoints=None))
    expected = _finish(undisturbed)
    first = _start(make_config(problem))
    for _ in range(steps):
        first.train()
    second = _start(make_config(problem))
    results = _finish(second)
    assert _reports(results) == _reports(expected)
    assert torch.equal(_weights(second), _weights(undisturbed))
    assert results[-1][record.EPOCH] == expected[-1][record.EPOCH] == 9


@pytest.mark.parametrize(
    ("steps", "replayed"), [(2, [[1, 2]]), (3, [[1, 2, 3]]), (8, [[1, 2, 3], [4, 5, 6], [7, 8]])]
)
def test_history_is_reported_rung_by_rung_without_training(
    make_config, one_epoch_a_step, monkeypatch, steps, replayed
):
    first = _start(make_config())
    results = [first.train() for _ in range(steps)]
    second = _start(make_config())
    trained = []
    step = second._training.step
    monkeypatch.setattr(second._training, "step", lambda: trained.append(1) or step())

    again = [second.train() for _ in replayed]
    assert not trained
    assert [_epochs(result) for result in again] == replayed
    by_epoch = {result[record.EPOCH]: result for result in results}
    for result in again:
        before = by_epoch[result[record.EPOCH]]
        assert result["reports"][-1] == before["reports"][-1]
        assert result[record.VAL_R2] == before[record.VAL_R2]
        assert result["number"] == 5
        assert result["checkpoint"] is None
        assert result["done"] is False

    following = second.train()
    assert trained == [1]
    assert _epochs(following) == [steps + 1]


def test_every_rung_ends_a_result_whenever_the_trial_was_cut_off(make_config, monkeypatch):
    for steps in range(1, 9):
        config = make_config(number=steps)
        monkeypatch.setattr(trial, "REPORT_EVERY_S", -1.0)
        first = _start(config)
        for _ in range(steps):
            first.train()
        monkeypatch.setattr(trial, "REPORT_EVERY_S", math.inf)
        ends = [result[record.EPOCH] for result in _finish(_start(config))]
        assert set(ends) >= {3, 6, 9}
        assert ends == sorted(set(ends))


def test_among_many_trials_epochs_are_reported_together(make_config, one_epoch_a_step):
    assert _finish(_start(make_config(number=1)))[0]["reports"][1:] == []
    together = _finish(_start(make_config(number=2, report_every_s=math.inf)))
    assert [result[record.EPOCH] for result in together] == [*RUNGS, 9]
    assert [len(result["reports"]) for result in together] == [3, 3, 3]


def test_checkpoint_of_the_final_epoch_is_reported_as_done(make_config, only_rungs, folder):
    config = make_config()
    first = _start(config)
    results = _finish(first)
    state = {**checkpoint.load_newest(folder).state, "training": first._training.state_dict()}
    reports = [report for result in results for report in result["reports"]]
    checkpoint.save(folder, 9, state, reports)
    again = _finish(_start(config))
    assert [_epochs(result) for result in again] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert [result["done"] for result in again] == [False, False, True]


def test_result_names_the_checkpoint_that_was_written(make_config, only_rungs, folder):
    results = _finish(_start(make_config()))
    assert [result["checkpoint"] for result in results] == [3, 6, None]
    assert sorted(path.stem for path in folder.iterdir()) == ["epoch-000003", "epoch-000006"]


def test_without_a_folder_nothing_is_written(make_config, only_rungs, folder):
    config = make_config()
    del config["checkpoints"], config["checkpoint_every_s"]
    for each in (config, make_config(checkpoints=None)):
        assert {result["checkpoint"] for result in _finish(_start(each))} == {None}
    assert not folder.parent.exists()


def test_checkpoints_keep_their_distance_from_each_other_and_from_the_start(
    make_config, one_epoch_a_step, monkeypatch
):
    now = 100.0
    monkeypatch.setattr(trial, "time", SimpleNamespace(perf_counter=lambda: now))
    config = make_config(checkpoint_every_s=10.0)
    running = _start(config)
    saved = []
    for _ in range(7):
        now += 4.0
        saved.append(running.train()["checkpoint"])
    assert saved == [None, None, 3, None, None, 6, None]

    again = _start(config)
    now += 100.0  # as long as the history lasts, nothing new is there to be saved
    assert [again.train()["checkpoint"] for _ in range(3)] == [None, None, 7]
    assert again.train()["checkpoint"] is None


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.faults
def test_damaged_newest_checkpoint_costs_one_interval(
    make_config, one_epoch_a_step, folder, caplog, problem
):
    config = make_config(problem)
    expected = _finish(_start({**config, "checkpoints": None}))
    first = _start(config)
    for _ in range(5):
        first.train()
    damaged = _newest(folder)
    _flip_last_byte(damaged)
    with caplog.at_level(logging.WARNING):
        second = _start(config)
    assert second._training.epoch == 4
    assert str(damaged) in caplog.text
    assert _reports(_finish(second)) == _reports(expected)


def test_damaged_checkpoint_does_not_count_among_the_two_that_are_kept(
    make_config, monkeypatch, folder
):
    config = make_config()
    monkeypatch.setattr(trial, "REPORT_EVERY_S", -1.0)
    first = _start(config)
    for _ in range(5):
        first.train()
    _flip_last_byte(_newest(folder))
    monkeypatch.setattr(trial, "REPORT_EVERY_S", math.inf)
    second = _start(config)
    assert [second.train()["checkpoint"] for _ in range(3)] == [None, None, 6]
    _flip_last_byte(_newest(folder))
    assert _start(config)._training.epoch == 4


@pytest.mark.faults
def test_all_damaged_means_a_fresh_start(make_config, one_epoch_a_step, folder):
    config = make_config()
    first = _start(config)
    results = [first.train() for _ in range(5)]
    for path in folder.iterdir():
        path.write_bytes(b"")
    second = _start(config)
    again = [second.train() for _ in range(2)]
    assert _reports(again) == _reports(results[:2])
    assert [path.stem for path in sorted(folder.iterdir())] == ["epoch-000001", "epoch-000002"]


@pytest.mark.parametrize(("unfit", "left"), [(1, 4), (2, 0)], ids=["the newest", "both"])
@pytest.mark.parametrize("damage", ["other shape", "half a state", "no generator", "no state"])
def test_state_that_does_not_fit_leaves_no_trace(
    make_config, one_epoch_a_step, folder, caplog, unfit, left, damage
):
    config = make_config("digits")
    expected = _finish(_start({**config, "checkpoints": None}))
    first = _start(config)
    for _ in range(5):
        first.train()
    for saved in list(checkpoint.newest_first(folder))[:unfit]:
        training = saved.state["training"]
        model = training["model"]
        match damage:
            case "other shape":
                last = list(model)[-1]
                model |= {name: torch.zeros_like(value) for name, value in model.items()}
                model[last] = torch.zeros(99)
            case "half a state":
                model |= {name: torch.zeros_like(value) for name, value in model.items()}
                del training["optimizer"]
            case "no generator":
                training["generator"] = None
            case "no state":
                saved.state["training"] = []
        path = checkpoint.save(folder.parent / "altered", saved.epoch, saved.state, saved.reports)
        path.replace(folder / path.name)
    with caplog.at_level(logging.WARNING):
        second = _start(config)
    assert second._training.epoch == left
    assert f"the checkpoint of epoch 5 in {folder}" in caplog.text
    assert _reports(_finish(second)) == _reports(expected)


def test_checkpoints_of_another_search_of_that_name_are_not_taken_up(
    make_config, one_epoch_a_step, caplog
):
    _start(make_config(kd_weight=0.4)).train()
    with caplog.at_level(logging.WARNING):
        results = _finish(_start(make_config(kd_weight=0.9)))
    assert "another trial" in caplog.text
    expected = _finish(_start(make_config(kd_weight=0.9, checkpoints=None)))
    assert _reports(results) == _reports(expected)


def test_trial_survives_a_folder_it_cannot_write_to(make_config, only_rungs, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    config = make_config(checkpoints=str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        results = _finish(_start(config))
    assert [result["checkpoint"] for result in results] == [None, None, None]
    assert caplog.text.count("no checkpoint of epoch") == 2
    assert _reports(results) == _reports(_finish(_start(make_config(checkpoints=None))))


def test_reused_actor_knows_nothing_of_the_trial_before(make_config, one_epoch_a_step):
    interrupted = _start(make_config(number=5))
    for _ in range(4):
        interrupted.train()

    actor = _start(make_config(number=5))
    actor.train()  # half of the history is still to be replayed
    other = make_config(number=6, kd_weight=0.7)
    assert actor.reset(other)
    results = _finish(actor)
    expected = _finish(_start(make_config(kd_weight=0.7, checkpoints=None)))
    assert _reports(results) == _reports(expected)

    assert actor.reset(make_config(number=5))
    assert _epochs(actor.train()) == [1, 2, 3]


def test_a_process_on_a_machine_about_to_go_takes_up_no_other_trial(make_config, monkeypatch):
    draining = set()
    here = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(trial.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(trial.ray, "get_runtime_context", lambda: here)
    asked = SimpleNamespace(get_draining_nodes=lambda: draining)
    monkeypatch.setattr(trial, "cluster_state", asked)
    actor = _start(make_config(number=5))
    _finish(actor)
    draining.add("another")
    assert actor.reset(make_config(number=6))
    draining.add("here")
    with pytest.raises(trial.MachineLeavingError, match="about to be taken away"):
        actor.reset(make_config(number=7))


def test_a_complete_trial_leaves_its_validation_logits_with_their_labels(make_config, tmp_path):
    """What analysis reads is what the trial's last report was computed from."""
    running = _start(make_config("digits", logits=str(tmp_path / "logits"), checkpoints=None))
    results = _finish(running)
    found = load_logits(tmp_path / "logits", [5])
    assert not found.skipped
    assert found.labels.tolist() == running._training.val_labels.tolist()
    last = results[-1]["reports"][-1]
    accuracy = (found.logits[0].argmax(1) == found.labels).mean()
    assert accuracy == pytest.approx(last[record.VAL_ACCURACY])
    nll = scaled_nll(found.logits, found.labels)[0]
    assert nll == pytest.approx(last[record.VAL_NLL_SCALED], rel=1e-3)  # float16


def test_a_trial_on_its_way_and_a_closed_form_one_leave_no_logits(
    make_config, one_epoch_a_step, tmp_path
):
    _start(make_config("digits", logits=str(tmp_path / "logits"))).train()
    _finish(_start(make_config("ridge", logits=str(tmp_path / "logits"), checkpoints=None)))
    assert not (tmp_path / "logits").exists()


def test_epochs_shorter_than_half_a_second_share_a_result(make_config, monkeypatch):
    now = 0.0

    def clock():
        nonlocal now
        now += 0.2
        return now

    monkeypatch.setattr(trial, "time", SimpleNamespace(perf_counter=clock))
    config = make_config(checkpoints=None, rungs=[])
    assert [_epochs(result) for result in _finish(_start(config))] == [
        [1, 2, 3],
        [4, 5, 6],
        [7, 8, 9],
    ]
