from search.plan import counted, make_plan, shared_artifacts
from trainables.config import TeacherSpec


def test_contexts_trials_and_samples_are_counted_by_hand(make_spec):
    spec = make_spec(
        contexts={"method": ["random", "el2n"], "fraction": [0.1, 0.9], "teacher": "cnn4"},
        seeds={"trials": 2, "scores": 3},
        budget={"trials_per_context": 5},
    )
    plan = make_plan(spec)
    assert (plan.contexts, plan.trials) == (4, 20)
    assert counted(plan.artifacts) == "1 teacher, 1 score"
    # 1293 training samples: 129 and 1164 are kept, by two methods, 5 times, for 9 epochs.
    assert plan.trial_samples == 2 * 5 * 9 * (129 + 1164)
    assert plan.artifact_samples == 9 * 1293 + 3 * 9 * 1293


def test_with_fixed_iterations_every_fraction_costs_the_same(make_spec):
    spec = make_spec(recipe={"iterations": 50, "batch_size": 32})
    assert make_plan(spec).trial_samples == 2 * 12 * 50 * 32


def test_every_teacher_that_a_trial_may_need_is_planned_once(make_spec):
    spec = make_spec(
        contexts={"method": ["random", "el2n"], "fraction": [0.1, 0.5, 0.9]},
        tune={"teacher": ["cnn4", "cnn32"], "teacher_fraction": [0.5, 1.0]},
        seeds={"trials": 3, "teacher": 2},
    )
    artifacts = shared_artifacts(spec)
    teachers = {(t.architecture, t.fraction, t.seed) for t in artifacts if t.key[0] == "t"}
    assert len(teachers) == 2 * 2 * 2
    assert len({a.key for a in artifacts}) == len(artifacts) == 8 + 1


def test_tuned_methods_are_all_scored(make_spec):
    spec = make_spec(
        contexts={"fraction": 0.5, "teacher": "cnn4"},
        tune={"method": ["random", "el2n", "forgetting"]},
    )
    scores = [a.method for a in shared_artifacts(spec) if not isinstance(a, TeacherSpec)]
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
