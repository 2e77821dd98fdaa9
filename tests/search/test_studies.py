import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState

from search.designer import start_trials
from search.ledger import Ledger, TrialState
from search.samplers.optuna_samplers import SAMPLERS
from search.studies import Studies
from trainables.record import Outcome

OUTCOMES = {
    Outcome.COMPLETE: OptunaState.COMPLETE,
    Outcome.STOPPED_EARLY: OptunaState.PRUNED,
    Outcome.FAILED: OptunaState.FAIL,
    Outcome.TIMEOUT: OptunaState.FAIL,
}


@pytest.fixture(
    params=[pytest.param(n, marks=pytest.mark.slow) if n == "gp" else n for n in sorted(SAMPLERS)]
)
def spec(request, make_spec):
    """The contract that every sampler has to meet is tested on each."""
    if request.param == "cmaes":
        pytest.importorskip("cmaes")
    return make_spec(
        sampler=request.param,
        tune={
            "kd_weight": {"low": 0.2, "high": 0.7},
            "temperature": {"low": 1, "high": 10, "log": True},
            "teacher": ["cnn4", "cnn8"],
        },
        contexts={"method": "random", "fraction": [0.1, 0.9]},
    )


def trial(number, outcome, context, scores=(0.1, 0.2, 0.3), weight=0.5):
    values = {"kd_weight": weight, "temperature": 3.0, "teacher": "cnn4"}
    scores = dict(enumerate(scores, start=1))
    return TrialState(number, context.key, values, 0, False, scores=scores, outcome=outcome)


def past(spec, trials=10, outcomes=tuple(Outcome)):
    """A context's history: every outcome, KD weights all over."""
    context = spec.context_list[0]
    return [
        trial(n, outcomes[n % len(outcomes)], context, (0.1, 0.5 - (n / 20) ** 2), 0.2 + n / 25)
        for n in range(trials)
    ]


def test_a_study_is_named_after_search_and_context(spec, tmp_path):
    studies = Studies(spec, tmp_path / "optuna.journal")
    for context in spec.context_list:
        studies.sync(context, [])
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.journal")))
    stored = {s.study_name: s for s in optuna.get_all_study_summaries(storage)}
    assert set(stored) == {f"rehearsal/{c.key}" for c in spec.context_list}
    for context in spec.context_list:
        study = stored[f"rehearsal/{context.key}"]
        assert study.user_attrs == {"context": context.label, **context.values}
        assert study.direction.name == "MAXIMIZE"


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_is_told_to_optuna_as_what_it_is(spec, tmp_path, outcome):
    context = spec.context_list[0]
    study = Studies(spec, tmp_path / "o").sync(context, [trial(4, outcome, context)])
    (told,) = study.trials
    assert told.state is OUTCOMES[outcome]
    assert told.intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}
    assert told.user_attrs == {"kdcurve.trial": 4, "seed": 0}
    assert told.params == {"kd_weight": 0.5, "temperature": 3.0, "teacher": "cnn4"}
    if outcome is Outcome.COMPLETE:
        assert told.value == 0.3
    if OUTCOMES[outcome] is OptunaState.FAIL:
        assert told.value is None


def test_a_trial_that_failed_before_its_first_epoch_is_told_without_a_value(spec, tmp_path):
    context = spec.context_list[0]
    (told,) = (
        Studies(spec, tmp_path / "o")
        .sync(context, [trial(0, Outcome.FAILED, context, scores=())])
        .trials
    )
    assert (told.state, told.value, told.intermediate_values) == (OptunaState.FAIL, None, {})


def test_a_trial_is_told_once_and_its_end_when_it_comes(spec, tmp_path):
    studies, context = Studies(spec, tmp_path / "o"), spec.context_list[0]
    running = trial(0, None, context)
    assert [t.state for t in studies.sync(context, [running]).trials] == [OptunaState.RUNNING]
    running.outcome = Outcome.COMPLETE
    for _ in range(3):
        study = studies.sync(context, [running])
    assert [t.state for t in study.trials] == [OptunaState.COMPLETE]


def test_a_proposal_becomes_the_trial_that_it_was_accepted_as(spec, tmp_path):
    studies, context = Studies(spec, tmp_path / "o"), spec.context_list[0]
    known = past(spec, 8)
    asked = studies.ask(context, known, 8)
    studies.accept(asked, 30)
    known.append(TrialState(30, context.key, asked.params, 0, False, scores={1: 0.4}))
    known[-1].outcome = Outcome.COMPLETE
    study = studies.sync(context, known)
    assert len(study.trials) == 9
    assert study.trials[asked.number].value == 0.4


def test_proposals_lie_within_their_ranges(spec, tmp_path):
    studies, context = Studies(spec, tmp_path / "o"), spec.context_list[0]
    known = past(spec)
    proposals = [studies.ask(context, known, index).params for index in range(25)]
    assert all(0.2 <= p["kd_weight"] <= 0.7 for p in proposals)
    assert all(1 <= p["temperature"] <= 10 for p in proposals)
    assert {p["teacher"] for p in proposals} == {"cnn4", "cnn8"}
    assert len({p["kd_weight"] for p in proposals}) == 25


def test_a_proposal_depends_on_the_searchs_seed_the_context_and_the_index(
    spec, make_spec, tmp_path
):
    def proposal(spec, context, index, name):
        return Studies(spec, tmp_path / name).ask(context, past(spec), index).params

    first, second = spec.context_list
    other_seed = spec.model_copy(update={"seed": 1})
    reference = proposal(spec, first, 10, "a")
    assert proposal(spec, first, 10, "b") == reference
    assert proposal(spec, first, 11, "c") != reference
    assert proposal(other_seed, first, 10, "d") != reference
    assert proposal(spec, second, 10, "e") != reference


def test_a_proposal_does_not_depend_on_what_other_contexts_were_asked(spec, tmp_path):
    first, second = spec.context_list
    alone = Studies(spec, tmp_path / "alone")
    beside = Studies(spec, tmp_path / "beside")
    for index in range(5):
        beside.ask(second, [], index)
    assert alone.ask(first, past(spec), 10).params == beside.ask(first, past(spec), 10).params


def test_all_but_random_learn_from_what_is_known(spec, tmp_path):
    context = spec.context_list[0]
    known = past(spec, 12, (Outcome.COMPLETE,))
    nothing = Studies(spec, tmp_path / "a").ask(context, [], 12).params
    after = Studies(spec, tmp_path / "b").ask(context, known, 12).params
    assert (nothing == after) == (spec.sampler == "random")


def test_tpe_goes_where_scores_are_high(make_spec, tmp_path):
    spec = make_spec(sampler="tpe")
    context = spec.context_list[0]
    assert start_trials(spec) == 6
    known = [
        TrialState(n, context.key, {"kd_weight": n / 20}, 0, False, scores={9: -abs(n / 20 - 0.8)})
        for n in range(21)
    ]
    for each in known:
        each.outcome = Outcome.COMPLETE
    studies = Studies(spec, tmp_path / "o")
    weights = [studies.ask(context, known, 21 + k).params["kd_weight"] for k in range(9)]
    assert sorted(weights)[4] == pytest.approx(0.8, abs=0.15)


def test_a_deleted_storage_loses_nothing(spec, journal, plan, rehearsal, tmp_path):
    ledger = plan(journal, spec)
    played = rehearsal(spec, ledger, tmp_path / "live")
    for _ in range(6):
        played.run(trials=3)
        replayed = Ledger(journal, spec.name)
        for context in spec.context_list:
            known = replayed.by_context.get(context.key, [])
            rebuilt = Studies(spec, tmp_path / "rebuilt")
            study = rebuilt.sync(context, known)
            live = played.searcher._designer._designer._studies.sync(
                context, ledger.by_context.get(context.key, [])
            )
            assert [told(t) for t in study.trials] == [told(t) for t in live.trials]


def told(each):
    return each.state, each.value, each.params, each.intermediate_values, each.user_attrs


def test_an_old_storage_is_replaced(spec, tmp_path):
    path = tmp_path / "deep" / "optuna.journal"
    first = Studies(spec, path)
    first.sync(spec.context_list[0], past(spec))
    assert Studies(spec, path).sync(spec.context_list[0], []).trials == []


def test_a_trial_told_when_it_is_over_is_as_one_told_step_by_step(spec, tmp_path):
    context = spec.context_list[0]
    scores = ((0.1, 0.2), (0.1, float("nan")), ())
    known = [trial(n, None, context, scores[n % 3]) for n in range(3 * len(Outcome))]
    live = Studies(spec, tmp_path / "live")
    live.sync(context, known)
    for number, each in enumerate(known):
        each.outcome = list(Outcome)[number // 3]
    rebuilt = Studies(spec, tmp_path / "rebuilt").sync(context, known)
    step_by_step = [repr(told(t)) for t in live.sync(context, known).trials]
    assert [repr(told(t)) for t in rebuilt.trials] == step_by_step
