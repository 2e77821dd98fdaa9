import math
import sys
import textwrap

import optuna
import pytest

from search.designer import start_trials
from search.errors import KdcurveError, UsageError
from search.journal import EventKind
from search.ledger import Ledger
from search.samplers.cmaes import ReplayedCmaEs
from search.samplers.optuna_samplers import SAMPLERS, make_sampler
from search.samplers.presence import check_sampler
from search.samplers.table import DESIGNERS, make_designer
from search.sections import SAMPLERS as NAMES
from search.studies import Studies
from trainables.record import Outcome

BUNDLED = [
    pytest.param(name, marks=pytest.mark.slow) if name == "gp" else name for name in SAMPLERS
]


def needs(name):
    if name == "cmaes":
        pytest.importorskip("cmaes")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's module with samplers, in the folder where one starts."""
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            from optuna.samplers import RandomSampler

            class Middle(RandomSampler):
                def sample_independent(self, study, trial, name, distribution):
                    return 0.25

            class Seeded(RandomSampler):
                def __init__(self, *, seed):
                    super().__init__(seed=seed)

            class Asking(RandomSampler):
                def __init__(self, space):
                    super().__init__()

            class Raising(RandomSampler):
                def sample_independent(self, study, trial, name, distribution):
                    raise ZeroDivisionError("no values left")

            function = print
            """
        )
    )
    monkeypatch.setenv("KDCURVE_PATH", str(tmp_path))
    yield
    sys.modules.pop("mine", None)
    sys.path.remove(str(tmp_path))


def test_every_name_that_a_file_may_hold_has_something_behind_it():
    assert set(DESIGNERS) == set(NAMES)


def ended(trials):
    return [(t.values["kd_weight"], t.seed, t.start_design) for t in trials]


@pytest.mark.parametrize("name", BUNDLED)
def test_a_search_taken_up_again_goes_on_as_it_would_have(make_spec, play, name):
    needs(name)
    spec = make_spec(sampler=name, budget={"trials_per_context": 10})
    score = lambda t: 0.9 - (t.values["kd_weight"] - 0.3) ** 2  # noqa: E731
    whole = play(spec, score=score)
    parts = []
    while len(parts) < len(whole):
        parts = play(spec, upto=len(parts) + 7, known=parts, score=score)
    assert ended(parts) == ended(whole)


@pytest.mark.parametrize("name", BUNDLED)
def test_it_lives_with_constant_scores_and_lists_of_one(make_spec, play, name):
    needs(name)
    spec = make_spec(
        sampler=name,
        budget={"trials_per_context": 9},
        contexts={"method": "random", "fraction": 0.5},
        tune={"kd_weight": {"low": 0.2, "high": 0.3}, "teacher": ["cnn4"]},
    )
    trials = play(spec)
    assert len(trials) == spec.trials == 9
    later = trials[start_trials(spec) :]
    assert all(0.2 <= t.values["kd_weight"] <= 0.3 for t in later)
    assert {t.values["teacher"] for t in trials} == {"cnn4"}


@pytest.mark.parametrize("name", [*BUNDLED, "optuna.samplers:QMCSampler"])
def test_it_lives_with_scores_that_are_no_numbers_and_with_those_that_are_missing(
    make_spec, journal, plan, rehearsal, tmp_path, name
):
    needs(name)
    spec = make_spec(sampler=name, early_stopping={"name": "none"})
    ledger = plan(journal, spec)
    bad = {2: math.nan, 8: math.inf}
    played = rehearsal(
        spec, ledger, tmp_path, lambda trial, epoch: bad.get(len(ledger.trials), 0.5)
    )
    played.run(12)
    ledger.record(EventKind.PROPOSED, 12, context=spec.context_list[0].key,
                  values={"kd_weight": 0.5}, seed=0, start_design=False)  # fmt: skip
    ledger.record(EventKind.ENDED, 12, outcome=Outcome.COMPLETE, reason=None)
    played.run()
    assert len(ledger.trials) == spec.trials
    studies = Studies(spec, tmp_path / "rebuilt")
    told = [t for c in spec.context_list for t in studies.sync(c, ledger.by_context[c.key]).trials]
    states = [t.state.name for t in told]
    assert (states.count("FAIL"), states.count("COMPLETE")) == (3, 21)


def test_cma_es_told_anew_is_the_same_as_one_that_remembers():
    pytest.importorskip("cmaes")

    def run(sampler):
        def objective(trial):
            x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 1, 16, log=True)
            return -((x - 0.8) ** 2) - (math.log2(y) / 4 - 0.2) ** 2

        study = optuna.create_study(sampler=sampler, direction="maximize")
        study.optimize(objective, n_trials=20)
        return [trial.params for trial in study.trials]

    told_anew = run(ReplayedCmaEs(3))
    assert told_anew == run(optuna.samplers.CmaEsSampler(seed=3))
    assert told_anew != run(ReplayedCmaEs(4))


def test_cma_es_draws_lists_at_random(make_spec, play):
    pytest.importorskip("cmaes")
    spec = make_spec(
        sampler="cmaes",
        budget={"trials_per_context": 14},
        contexts={"method": "random", "fraction": 0.5},
        tune={"teacher": ["cnn4", "cnn8"]},
    )
    assert {t.values["teacher"] for t in play(spec)[6:]} == {"cnn4", "cnn8"}


def test_cma_es_without_a_finished_trial_draws_at_random():
    study = optuna.create_study(sampler=ReplayedCmaEs(0))
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    assert 0 <= study.ask(space).params["x"] <= 1


def test_a_missing_package_is_one_clear_error_before_anything_starts(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"sampler: 'cmaes' .*pip install 'kdcurve\[cmaes\]'"):
        check_sampler("cmaes")


def test_a_users_sampler_chooses_after_the_start(own, make_spec, play):
    spec = make_spec(sampler="mine:Middle")
    trials = play(spec)
    assert {t.values["kd_weight"] for t in trials[2 * start_trials(spec) :]} == {0.25}


def test_a_users_sampler_gets_a_seed_where_it_takes_one(own):
    study, trial = optuna.create_study(), None
    space = optuna.distributions.FloatDistribution(0, 1)

    def draw(name, seed):
        return make_sampler(name, seed, 0).sample_independent(study, trial, "x", space)

    assert draw("mine:Seeded", 1) == draw("mine:Seeded", 1) != draw("mine:Seeded", 2)
    assert draw("optuna.samplers:RandomSampler", 1) == draw("mine:Seeded", 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine:Missing", "mine has no function 'Missing'"),
        ("nowhere:Sampler", "no module 'nowhere'"),
        ("mine:function", "is <built-in function print>"),
        ("optuna.pruners:MedianPruner", "MedianPruner"),
        ("mine:Asking", "raised TypeError"),
        ("optuna.samplers:GridSampler", "raised TypeError"),
    ],
)
def test_what_cannot_be_made_is_one_clear_error(own, make_spec, tmp_path, name, said):
    spec = make_spec(sampler=name)
    for fails in (
        lambda: check_sampler(name),
        lambda: make_designer(spec, Studies(spec, tmp_path / "o")),
    ):
        with pytest.raises(UsageError, match="sampler: ") as refused:
            fails()
        assert said in str(refused.value)
        assert name in str(refused.value)
        assert "allowed: a class of optuna.samplers.BaseSampler" in str(refused.value)


def test_a_users_sampler_that_raises_is_one_clear_error_and_loses_nothing(
    own, make_spec, journal, plan, rehearsal, tmp_path
):
    spec = make_spec(sampler="mine:Raising")
    ledger = plan(journal, spec)
    with pytest.raises(KdcurveError, match="'mine:Raising' failed to propose trial 12"):
        rehearsal(spec, ledger, tmp_path).run()
    assert len(Ledger(journal, spec.name).trials) == 12
    other = spec.model_copy(update={"sampler": "random"})
    rehearsal(other, ledger, tmp_path).run()
    assert len(ledger.trials) == spec.trials
