from collections import Counter

import numpy as np
import pytest
import torch

from search.errors import UsageError
from search.plan import counted, gpu_hours, make_plan, settle, shared_artifacts
from search.samplers.layout import layout
from search.specfile import parse_spec
from trainables.config import ScoresSpec, SoftLabelsSpec, TeacherSpec
from trainables.pruning import file


def test_contexts_trials_and_samples_are_counted_by_hand(make_spec):
    spec = make_spec(
        contexts={"method": ["random", "el2n"], "fraction": [0.1, 0.9], "teacher": "cnn4"},
        seeds={"trials": 2, "scores": 3},
        budget={"trials_per_context": 5},
    )
    plan = make_plan(spec)
    assert (plan.contexts, plan.trials) == (4, 20)
    assert counted(plan.artifacts) == "1 teacher, 1 score, 1 table of soft labels"
    # 1293 training samples: 129 and 1164 are kept, by two methods, 5 times, for 9 epochs.
    assert plan.trial_samples == 2 * 5 * 9 * (129 + 1164)
    # Two convolutions and a linear layer each, in multiplications.
    small = 64 * 9 * 4 + 16 * 9 * 4 * 8 + 32 * 10
    large = 64 * 9 * 8 + 16 * 9 * 8 * 16 + 64 * 10
    assert spec.flops == {"cnn8": 2 * large, "cnn4": 2 * small}
    # Digits have one view, so that the table costs a third of a teacher's epoch. El2n looks at
    # every sample once, after one of 9 epochs.
    teacher, table = (round(small / large * count) for count in (9 * 1293, 1293 / 3))
    assert plan.artifact_samples == teacher + table + round(3 * (1 + 1 / 3) * 1293)


def test_with_fixed_iterations_every_fraction_costs_the_same(make_spec):
    spec = make_spec(recipe={"iterations": 50, "batch_size": 32})
    assert make_plan(spec).trial_samples == 2 * 12 * 50 * 32


def test_the_plan_counts_and_says_how_each_baseline_spreads_its_trials(make_spec):
    """Epochs of 129 and 1164 samples, at 9 epochs a full trial."""

    def planned(sampler, trials, **sections):
        budget = {"trials_per_context": trials}
        spec = make_spec(sampler=sampler, budget=budget, seeds={"trials": 4}, **sections)
        return layout(spec).text, layout(spec).seeds, make_plan(spec).trial_samples / (129 + 1164)

    assert planned("tpe", 14) == ("14 per context", 3, 14 * 9)
    each = "per context, 11 KD weights in turn with a seed each"
    assert planned("grid", 14) == (f"14 {each}", 4, 14 * 9)
    assert planned("grid-crn", 14) == ("14 per context, 5 KD weights a seed", 3, 14 * 9)
    looks = "28 per context, 22 of them for 1 epoch, 6 in full"
    assert planned("one-epoch-top-k", 28) == (looks, 2, 6 * 9 + 22)
    # It may send all trials to the largest fraction.
    stock = planned("ray-stock", 14)
    assert stock[:2] == ("one study and one comparison over all contexts", 4)
    assert stock[2] == 28 * 9 * 1164 / (129 + 1164)


def test_samples_are_limited_by_whichever_criterion_allows_fewer(make_spec):
    both = {"trials_per_context": 5, "epoch_samples": 100}
    assert make_plan(make_spec(budget=both, soft_labels="views")).trial_samples == 100
    both["epoch_samples"] = 1e9
    assert make_plan(make_spec(budget=both, soft_labels="views")).trial_samples == 5 * 9 * (
        129 + 1164
    )
    endless = make_plan(make_spec(budget={"until": {"regret": 0.1}}, soft_labels="views"))
    assert (endless.trials, endless.trial_samples) == (None, None)


def test_every_teacher_that_a_trial_may_need_is_planned_once(make_spec):
    spec = make_spec(
        contexts={"method": ["random", "el2n"], "fraction": [0.1, 0.5, 0.9]},
        tune={"teacher": ["cnn4", "cnn32"], "teacher_fraction": [0.5, 1.0]},
        seeds={"trials": 3, "teacher": 2},
    )
    artifacts = shared_artifacts(spec)
    taught = [each for each in artifacts if isinstance(each, TeacherSpec)]
    assert len({(t.architecture, t.fraction, t.seed) for t in taught}) == len(taught) == 2 * 2 * 2
    kinds = Counter(type(each).__name__ for each in artifacts)
    assert kinds == {"DatasetSpec": 1, "ScoresSpec": 1, "TeacherSpec": 8, "SoftLabelsSpec": 8}
    assert len({each.key for each in artifacts}) == len(artifacts)


def test_tuned_methods_are_all_scored(make_spec):
    spec = make_spec(
        contexts={"fraction": 0.5, "teacher": "cnn4"},
        tune={"method": ["random", "el2n", "forgetting"]},
    )
    scores = [each.method for each in shared_artifacts(spec) if isinstance(each, ScoresSpec)]
    assert sorted(scores) == ["el2n", "forgetting"]


def test_what_is_planned_covers_what_trials_ask_for(make_spec, journal, plan, rehearsal, tmp_path):
    from trainables.config import TrialConfig, artifacts

    spec = make_spec(
        tune={"teacher": ["cnn4", "cnn8"], "temperature": {"low": 1, "high": 9}},
        contexts={"method": ["random", "el2n"], "fraction": 0.5},
        seeds={"trials": 3, "teacher": 2},
    )
    planned = {a.key for a in shared_artifacts(spec)}
    searcher = rehearsal(spec, plan(journal, spec), tmp_path).searcher
    asked = set()
    for number in range(24):
        config = TrialConfig.model_validate(searcher.suggest(str(number))["trial"])
        asked |= {a.key for a in artifacts(config)}
    assert asked <= planned


def test_the_closed_form_problem_shares_nothing(make_spec):
    spec = make_spec(
        dataset={"name": "ridge"},
        student="linear",
        contexts={"method": "random", "fraction": 0.5, "teacher": "linear"},
    )
    assert make_plan(spec).artifacts == ()
    assert make_plan(spec).trial_samples == 12 * 9 * 100


def test_a_table_of_soft_labels_is_chosen_where_it_costs_less_than_asking(make_spec):
    """81 views of each image against the epochs that all trials together train."""
    crop = {"name": "digits", "augmentation": "crop"}
    one = {"method": "random", "fraction": 0.5, "teacher": "cnn4"}
    few = make_spec(dataset=crop, contexts=one, recipe={"epochs": 2, "batch_size": 32})
    many = make_spec(dataset=crop, contexts=one, recipe={"epochs": 90, "batch_size": 32})
    assert few.soft_label_source == "online"
    assert many.soft_label_source == "views"
    assert SoftLabelsSpec not in {type(each) for each in shared_artifacts(few)}


def test_tables_and_answers_of_a_large_teacher_cost_more(make_spec):
    """By hand: passes of the teacher, each a third of a training step of the teacher."""
    options = {
        "dataset": {"name": "digits", "augmentation": "crop"},
        "contexts": {"method": "random", "fraction": [0.1, 0.9], "teacher": ["cnn4", "cnn64"]},
        "recipe": {"epochs": 9, "batch_size": 32},
        "seeds": {"trials": 2, "teacher": 2},
    }
    spec = make_spec(**options)
    prices = [spec.relative_cost(name) / 3 for name in ("cnn4", "cnn64")]
    assert prices[1] > 20 * prices[0]
    assert spec.teaching.table == pytest.approx(2 * 81 * 1293 * sum(prices))
    assert spec.teaching.asking == pytest.approx(12 * 9 * (129 + 1164) * sum(prices))
    plans = {s: make_plan(make_spec(**options, soft_labels=s)) for s in ("views", "online")}
    more = plans["online"].trial_samples - plans["views"].trial_samples
    assert more == round(spec.teaching.asking)
    more = plans["views"].artifact_samples - plans["online"].artifact_samples
    assert more == pytest.approx(spec.teaching.table, abs=4)


def test_what_is_settled_does_not_change_with_this_machine(make_spec, tmp_path):
    """A teacher's file is known by its content, and a settled search settles to itself."""
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"one")
    spec = make_spec(teachers={"cnn4": str(weights)})
    settled = settle(spec)
    assert settled.counted.train_samples == 1293
    assert settled.soft_labels == "views"
    assert settled.context_list == spec.context_list
    assert settle(settled) == settled == parse_spec(settled.model_dump(mode="json"))
    weights.write_bytes(b"two")
    assert settle(spec).teachers != settled.teachers
    weights.unlink()
    with pytest.raises(UsageError, match=r"teachers.cnn4: cannot read .*weights.safetensors"):
        settle(spec)


def test_networks_that_cannot_be_built_are_refused_before_anything_runs(make_spec):
    spec = make_spec(student="torchvision:no_such_model")
    with pytest.raises(UsageError, match="no_such_model"):
        settle(spec)


def test_scores_that_a_user_brings_are_found_from_anywhere_and_known_by_content(
    make_spec, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    np.save("own.npy", np.arange(1293.0))
    method = "file:own.npy"
    spec = make_spec(contexts={"method": [method, "random"], "fraction": 0.5, "teacher": "cnn4"})
    settled = settle(spec)
    assert settled.context_list == spec.context_list
    config = settled.trial_config(settled.context_list[0], {"kd_weight": 0.0}, 0)
    other = settled.trial_config(settled.context_list[1], {"kd_weight": 0.0}, 0)
    assert (config.method, config.scores_file.file) == (method, str(tmp_path / "own.npy"))
    assert other.scores_file is None
    monkeypatch.chdir("/")
    assert settle(settled) == settled == parse_spec(settled.model_dump(mode="json"))
    scores = file.read_scores(config.scores_file, 1293)
    assert torch.equal(scores, torch.arange(1293.0, dtype=torch.float64))
    np.save(tmp_path / "own.npy", np.arange(1293.0)[::-1])
    with pytest.raises(ValueError, match=r"own.npy: it is not the one .* planned with"):
        file.read_scores(config.scores_file, 1293)
    with pytest.raises(UsageError, match=r"method file:own.npy: cannot read /own.npy"):
        settle(spec)


def test_gpu_hours_are_the_flops_of_forward_and_backward_passes(make_spec):
    spec = make_spec()
    hours = gpu_hours(spec, samples=1e9, tflops=2.0)
    assert hours == pytest.approx(3 * spec.flops["cnn8"] * 1e9 / 2e12 / 3600)
