import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.trial import TrialState

from search.samplers.optuna_curve import CurveSampler


class TestOptunasContract(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """Optuna's own tests of a sampler."""

    @pytest.fixture
    def sampler(self):
        return lambda: CurveSampler(seed=0)


def study_of(fraction, siblings=(), seed=0, **attributes):
    study = optuna.create_study(direction="maximize", sampler=CurveSampler(siblings, seed=seed))
    for name, value in {"fraction": fraction, **attributes}.items():
        study.set_user_attr(name, value)
    return study


def planted(optimum, noise=0.002, seed=0):
    draw = np.random.default_rng(seed)

    def objective(trial):
        weight = trial.suggest_float("kd_weight", 0, 1)
        return 0.9 - 0.1 * (weight - optimum) ** 2 + draw.normal(0, noise)

    return objective


def weights(study):
    return [trial.params["kd_weight"] for trial in study.trials]


def test_it_starts_at_both_ends_and_in_the_middle_and_stays_in_the_range():
    study = study_of(0.3)
    study.optimize(lambda t: t.suggest_float("kd_weight", 0.2, 0.6), n_trials=8)
    assert weights(study)[:3] == [0.2, 0.4, 0.6]
    assert all(0.2 <= weight <= 0.6 for weight in weights(study))


def test_it_goes_where_the_best_may_be():
    study = study_of(0.3)
    study.optimize(planted(0.7), n_trials=14)
    assert sorted(weights(study)[6:])[4] == pytest.approx(0.7, abs=0.2)


def test_siblings_teach_it():
    """With four siblings whose best is .8 its first free proposals are nearer to it than alone."""
    siblings = []
    for fraction in (0.1, 0.2, 0.5, 0.9):
        sibling = study_of(fraction, siblings)
        sibling.optimize(planted(0.8, seed=len(siblings)), n_trials=8)
        siblings.append(sibling)
    far = {}
    for name, known in (("alone", []), ("taught", siblings)):
        study = study_of(0.3, known, method="el2n")
        study.optimize(planted(0.8, noise=0.01, seed=9), n_trials=7)
        far[name] = float(np.mean([abs(weight - 0.8) for weight in weights(study)[3:]]))
    assert far["taught"] < far["alone"]


@pytest.mark.parametrize("among_its_siblings", [False, True])
def test_the_same_seed_proposes_the_same_and_another_differs(among_its_siblings):
    def run(seed):
        study = study_of(0.3, seed=seed)
        if among_its_siblings:
            study.sampler = CurveSampler([study], seed=seed)

        def objective(trial):
            trial.suggest_float("other", 0, 1)
            return planted(0.4)(trial)

        study.optimize(objective, n_trials=6)
        return [trial.params for trial in study.trials]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_trials_that_failed_were_pruned_or_gave_no_number_teach_nothing():
    def run(spoilt):
        study = study_of(0.3)
        if spoilt:
            space = {"kd_weight": FloatDistribution(0, 1)}
            for state, value in ((TrialState.FAIL, None), (TrialState.PRUNED, 0.99),
                                 (TrialState.COMPLETE, math.inf)):  # fmt: skip
                study.add_trial(optuna.create_trial(
                    state=state, value=value, params={"kd_weight": 0.9},
                    distributions=space))  # fmt: skip
        study.optimize(planted(0.2), n_trials=7)
        return weights(study)[3 * spoilt :]

    assert run(spoilt=True) == run(spoilt=False)


def test_a_constant_objective_and_nan_do_no_harm():
    study = study_of(0.3)

    def objective(trial):
        trial.suggest_float("kd_weight", 0, 1)
        return math.nan if trial.number == 5 else 0.5

    study.optimize(objective, n_trials=9)
    assert [t.state.name for t in study.trials].count("FAIL") == 1
    assert all(0 <= weight <= 1 for weight in weights(study))


def test_pending_trials_are_not_proposed_again():
    study = study_of(0.3)
    study.optimize(planted(0.5), n_trials=5)
    space = {"kd_weight": FloatDistribution(0, 1)}
    asked = [study.ask(space).params["kd_weight"] for _ in range(4)]
    assert len(set(asked)) > 1


def test_jobs_may_run_side_by_side():
    study = study_of(0.3)
    study.optimize(planted(0.5), n_trials=8, n_jobs=2)
    assert all(trial.state is TrialState.COMPLETE for trial in study.trials)


def test_temperature_and_teacher_are_chosen_with_the_kd_weight():
    study = study_of(0.3)

    def objective(trial):
        weight = trial.suggest_float("kd_weight", 0, 1)
        temperature = trial.suggest_float("temperature", 1, 16, log=True)
        teacher = trial.suggest_categorical("teacher", ["weak", "strong"])
        gain = 0.1 * weight * (1.5 - weight)
        return (
            0.8 + gain * (1.0 if teacher == "strong" else 0.2) - 0.01 * math.log2(temperature / 4)
        )

    study.optimize(objective, n_trials=16)
    teachers = [trial.params["teacher"] for trial in study.trials[8:]]
    assert teachers.count("strong") > teachers.count("weak")
    assert all(1 <= trial.params["temperature"] <= 16 for trial in study.trials)


def test_a_minimised_study_is_a_maximised_one_upside_down():
    def run(direction, sign):
        study = optuna.create_study(direction=direction, sampler=CurveSampler(seed=0))
        study.optimize(lambda t: sign * planted(0.3, noise=0)(t), n_trials=7)
        return weights(study)

    assert run("minimize", -1) == run("maximize", 1)


def test_steps_are_kept():
    study = study_of(0.3)
    study.optimize(lambda t: t.suggest_float("kd_weight", 0, 1, step=0.25), n_trials=6)
    assert set(weights(study)) <= {0, 0.25, 0.5, 0.75, 1}


@pytest.mark.parametrize(
    ("domain", "error"),
    [
        (FloatDistribution(0, 2), ValueError),
        (optuna.distributions.IntDistribution(0, 1), TypeError),
    ],
)
def test_a_kd_weight_outside_0_to_1_is_refused(domain, error):
    with pytest.raises(error, match="kd_weight: "):
        study_of(0.3).ask({"kd_weight": domain})


def test_a_list_of_kd_weights_is_a_range_too():
    study = study_of(0.3)
    space = {"kd_weight": CategoricalDistribution([0.0, 0.2, 0.9])}
    for _ in range(6):
        asked = study.ask(space)
        study.tell(asked, -abs(asked.params["kd_weight"] - 0.2))
    assert weights(study)[:3] == [0.0, 0.2, 0.9]
    assert set(weights(study)) <= {0.0, 0.2, 0.9}
