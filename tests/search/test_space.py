import pytest


def test_every_combination_under_contexts_is_one_context_with_a_key_of_its_own(make_spec):
    spec = make_spec(
        contexts={
            "method": ["random", "el2n"],
            "fraction": [0.1, 0.5, 0.9],
            "teacher": ["cnn4", "cnn32"],
            "temperature": [1, 4],
        }
    )
    contexts = spec.context_list
    assert len(contexts) == 2 * 3 * 2 * 2
    assert len({c.key for c in contexts}) == len({c.label for c in contexts}) == len(contexts)
    assert spec.trials == 24 * 12


def test_a_contexts_key_depends_on_its_own_values_data_and_student_alone(make_spec):
    def keys(**sections):
        return {c.values["fraction"]: c.key for c in make_spec(**sections).context_list}

    contexts = {"method": "random", "teacher": "cnn4"}
    few = keys(contexts={**contexts, "fraction": [0.9, 0.5]})
    many = keys(contexts={**contexts, "fraction": [0.1, 0.5, 0.7]}, name="other", seed=3)
    assert few[0.5] == many[0.5]
    assert keys(student="cnn4")[0.1] != keys()[0.1]
    assert keys(dataset={"name": "digits", "label_noise": 0.1})[0.1] != keys()[0.1]


def test_values_of_the_context_and_of_the_tuning_meet_in_a_trials_configuration(make_spec):
    spec = make_spec(tune={"kd_weight": {"low": 0, "high": 1}, "method": ["random", "el2n"]},
                     contexts={"fraction": 0.5, "teacher": "cnn4"},
                     seeds={"trials": 5, "teacher": 2, "scores": 3})  # fmt: skip
    (context,) = spec.context_list
    config = spec.trial_config(context, {"kd_weight": 0.25, "method": "el2n"}, seed=3)
    assert (config.fraction, config.kd_weight, config.method) == (0.5, 0.25, "el2n")
    assert (config.seed, config.teacher_seed, config.score_seeds) == (3, 1, 3)
    assert config.temperature == 4.0


def test_the_first_rung_is_a_third_of_the_budget_unless_the_file_says_otherwise(make_spec):
    def rungs(epochs, **stopping):
        spec = make_spec(recipe={"epochs": epochs}, early_stopping=stopping)
        return spec.rungs(spec.context_list[0])

    assert rungs(9) == (3,)
    assert rungs(10) == (4,)
    assert rungs(27, grace_epochs=1) == (1, 3, 9)
    assert rungs(27, grace_epochs=4, reduction_factor=2) == (4, 8, 16)
    assert rungs(9, grace_epochs=9) == rungs(1) == ()
    assert rungs(9, name="none") == ()


@pytest.mark.parametrize("factor", [1.05, 1.1, 1.5, 2, 2.4, 3, 4, 7.5])
@pytest.mark.parametrize("epochs", [1, 2, 3, 9, 10, 27, 200])
def test_rungs_ascend_below_the_budget(make_spec, factor, epochs):
    spec = make_spec(recipe={"epochs": epochs}, early_stopping={"reduction_factor": factor})
    rungs = spec.rungs(spec.context_list[0])
    assert list(rungs) == sorted(set(rungs))
    assert all(1 <= epoch < epochs for epoch in rungs)


def test_with_fixed_iterations_a_small_fraction_trains_more_epochs(make_spec):
    spec = make_spec(recipe={"iterations": 100, "batch_size": 32})
    small, large = spec.context_list
    assert (spec.kept_samples(small), spec.kept_samples(large)) == (129, 1164)
    assert (spec.total_epochs(small), spec.total_epochs(large)) == (20, 3)
