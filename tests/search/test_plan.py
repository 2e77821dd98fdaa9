from collections import Counter

import pytest

from search.errors import UsageError
from search.plan import counted, make_plan, settle, shared_artifacts
from search.specfile import parse_spec
from trainables.config import ScoresSpec, SoftLabelsSpec, TeacherSpec


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
    # Digits have one view, so that the table costs a third of an epoch.
    assert plan.artifact_samples == 9 * 1293 + 3 * 9 * 1293 + 1293 // 3


def test_with_fixed_iterations_every_fraction_costs_the_same(make_spec):
    spec = make_spec(recipe={"iterations": 50, "batch_size": 32})
    assert make_plan(spec).trial_samples == 2 * 12 * 50 * 32


def test_samples_are_limited_by_whichever_criterion_allows_fewer(make_spec):
    both = {"trials_per_context": 5, "epoch_samples": 100}
    assert make_plan(make_spec(budget=both)).trial_samples == 100
    both["epoch_samples"] = 1e9
    assert make_plan(make_spec(budget=both)).trial_samples == 5 * 9 * (129 + 1164)
    endless = make_plan(make_spec(budget={"until": {"regret": 0.1}}))
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
