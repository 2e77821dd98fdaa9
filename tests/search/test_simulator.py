"""Simulated searches: the same as rehearsed ones, in virtual time, with a truth to compare with."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.table import ResponseTable, write_table
from search.designer import Proposal
from search.errors import KdcurveError, UsageError
from search.places import Places
from search.regret import answers, optima, spread
from search.replay import TableWorld
from search.simulator import REPORT_EVERY_S, Clock, simulate, sweep_samples
from search.worlds import RidgeWorld
from trainables.record import VAL_ACCURACY, VAL_R2, Outcome

RIDGE = {
    "dataset": {"name": "ridge"},
    "student": "linear",
    "recipe": {"epochs": 9},
    "contexts": {"method": "random", "fraction": [0.1, 0.9], "teacher": "linear"},
}
WEIGHTS = (0.0, 0.5, 1.0)
FULL = {"name": "none"}


def score(fraction, weight, seed, epoch):
    """Best at ½ for small fractions, at 0 for large ones."""
    best = 0.5 if fraction < 0.5 else 0.0
    return 0.5 + 0.01 * epoch + 0.002 * seed - 0.2 * (weight - best) ** 2


def tiny(**columns):
    """Two contexts × three KD weights × seeds 0 and 1 × three epochs."""
    rows = [
        {
            **{"dataset": "digits", "student": "mlp16", "method": "random", "teacher": "cnn4"},
            **{"teacher_fraction": 1.0, "temperature": 4.0, "label_noise": 0.0},
            **{"fraction": f, "kd_weight": w, "seed": s, "epoch": e, "score": score(f, w, s, e)},
            "val_nll_scaled": np.nan,
        }
        for f in (0.1, 0.9)
        for w in WEIGHTS
        for s in (0, 1)
        for e in (1, 2, 3)
    ]
    return ResponseTable(pd.DataFrame(rows).assign(**columns), VAL_ACCURACY, 1000, 10)


@pytest.fixture
def on_table(make_spec):
    """A search that the tiny table answers; whole sections are replaced by keyword."""
    counted = {"train_samples": 1000, "classes": 10, "shape": [1]}
    return lambda **sections: make_spec(
        **{
            **{"student": "table:mlp16", "recipe": {"epochs": 3}, "counted": counted},
            **{"soft_labels": "views", "early_stopping": FULL, **sections},
        }
    )


class Fixed:
    """Proposes KD weights from a list, context after context."""

    def __init__(self, spec, weights):
        self.spec, self.left = spec, [(c, w) for w in weights for c in spec.context_list]

    def propose(self, known):
        if not self.left:
            return None
        context, weight = self.left.pop(0)
        return Proposal(context, {"kd_weight": weight}, 0)

    def accepted(self, number):
        pass


def fixed(*weights):
    return lambda spec, _: Fixed(spec, weights)


def facts(ledger):
    return [
        (t.number, t.context, dict(t.values), t.seed, t.start_design, t.outcome, dict(t.scores),
         dict(t.rungs))
        for t in ledger.trials.values()
    ]  # fmt: skip


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_with_one_worker_a_search_equals_the_rehearsed_one(
    sampler, make_spec, journal, plan, rehearsal, tmp_path
):
    spec = make_spec(**RIDGE, sampler=sampler)
    ledger, world = plan(journal, spec), RidgeWorld()
    rehearsal(
        spec, ledger, tmp_path, score=lambda trial, e: world.reports(trial, 0)[e - 1][VAL_R2]
    ).run()
    played = simulate(spec, world, workers=1)
    assert facts(played.ledger) == facts(ledger)
    assert played.ledger.outcomes()[Outcome.STOPPED_EARLY] > 0


def test_trials_of_one_worker_follow_each_other_and_last_as_long_as_they_cost(on_table):
    spec = on_table()
    played = simulate(spec, TableWorld(tiny(), spec), workers=1, samples_per_s=100)
    trials = list(played.ledger.trials.values())
    kept = {c.key: spec.kept_samples(c) for c in spec.context_list}
    assert sorted(kept.values()) == [100, 900]
    for trial in trials:
        assert trial.ended - trial.started == pytest.approx(3 * kept[trial.context] / 100)
    assert all(a.ended == b.started for a, b in pairwise(trials))
    assert played.virtual_s == pytest.approx(12 * 3 * (100 + 900) / 100)
    assert played.samples == 12 * 3 * (100 + 900)
    assert played.sweeps == pytest.approx(12)


def test_many_workers_are_all_busy_and_never_more_than_there_are(on_table):
    spec = on_table()
    played = simulate(spec, TableWorld(tiny(), spec), workers=3)
    trials = list(played.ledger.trials.values())
    starts = [t.started for t in trials]
    assert starts == sorted(starts)  # taken up in the order of their numbers
    at_work = [sum(t.started <= at < t.ended for t in trials) for at in starts]
    assert max(at_work) == 3
    assert at_work[2:] == [3] * 22
    assert len(trials) == 24
    assert played.ledger.outcomes()[Outcome.COMPLETE] == 24


def test_no_trial_starts_before_the_end_of_the_one_it_had_to_wait_for(on_table):
    spec = on_table()
    played = simulate(spec, TableWorld(tiny(), spec), workers=2)
    for trial in list(played.ledger.trials.values())[2:]:
        ends = [t.ended for t in played.ledger.trials.values() if t.number < trial.number]
        assert sum(end <= trial.started for end in ends) == len(ends) - 1


def test_a_search_ends_when_so_much_compute_is_spent(on_table):
    """The trial that passes the limit is ended, and none is begun after it."""
    spec = on_table()
    played = simulate(spec, TableWorld(tiny(), spec), sweeps=2.5, workers=1)
    # Contexts take turns: 2 sweeps, then .1 and .9 of the third.
    assert (len(played.ledger.trials), played.sweeps) == (6, pytest.approx(3.0))
    assert simulate(spec, TableWorld(tiny(), spec), sweeps=2.0).sweeps == pytest.approx(2.0)


def test_early_stopping_is_that_of_the_search(on_table):
    stopping = {"name": "asha", "grace_epochs": 1, "reduction_factor": 2.0}
    spec = on_table(early_stopping=stopping, seeds={"trials": 1})
    played = simulate(spec, TableWorld(tiny(), spec), designer=fixed(0.5, 1.0, 0.0, 0.25))
    stopped = [t for t in played.ledger.trials.values() if t.outcome is Outcome.STOPPED_EARLY]
    assert {t.values["kd_weight"] for t in stopped} >= {1.0}
    assert all(t.epoch in (1, 2) for t in stopped)
    assert played.samples < 4 * sweep_samples(spec)


def test_epochs_are_reported_while_a_trial_runs(on_table):
    """A designer sees how far others are: long epochs one by one, short ones together."""
    seen = {}

    class Looking(Fixed):
        def propose(self, known):
            running = [t for trials in known.values() for t in trials if t.outcome is None]
            seen[len(self.left)] = [t.epoch for t in running]
            return super().propose(known)

    spec = on_table()
    world = TableWorld(tiny(), spec)
    speed = 900 / (2 * REPORT_EVERY_S)  # an epoch of .9 lasts a second, three of .1 a third
    simulate(
        spec, world, workers=2, samples_per_s=speed, designer=lambda s, _: Looking(s, (0.5,) * 6)
    )
    assert seen[12] == []
    assert seen[10] == [0]
    # Short trials are over before anyone sees a part of them; a long one is seen after two epochs.
    assert {e for epochs in seen.values() for e in epochs} == {0, 2}


def test_a_replication_has_seeds_of_its_own_and_can_be_repeated(make_spec):
    spec = make_spec(**RIDGE, sampler="random")
    first, again, other = (simulate(spec, RidgeWorld(), draw=draw) for draw in (1, 1, 2))
    assert facts(first.ledger) == facts(again.ledger)
    assert facts(first.ledger) != facts(other.ledger)
    assert first.spec.seed != other.spec.seed


def test_a_sampler_that_raises_is_an_error(on_table):
    spec = on_table()
    with pytest.raises(KdcurveError, match=r"sampler 'tpe' failed to propose trial 0: .*no idea"):
        simulate(spec, TableWorld(tiny(), spec), designer=lambda s, _: _Clueless())


class _Clueless:
    def propose(self, known):
        raise RuntimeError("no idea")

    def accepted(self, number):
        pass


def test_time_begins_at_none():
    clock = Clock()
    assert clock.elapsed_s == 0
    clock.now += 5
    assert clock.elapsed_s == 5
    assert clock() != 0  # which would read as never


class TestTheWorldOfATable:
    def test_recorded_runs_are_answered_as_they_are(self, on_table):
        spec = on_table()
        world = TableWorld(tiny(), spec)
        trial = _trial(spec, 0.1, 0.5, 1)
        assert [(r["epoch"], r[VAL_ACCURACY]) for r in world.reports(trial, 0)] == [
            (e, score(0.1, 0.5, 1, e)) for e in (1, 2, 3)
        ]

    @pytest.mark.parametrize("weight", [0.1, 0.25, 0.7, 0.95])
    def test_a_parabola_is_interpolated_exactly_at_every_epoch(self, on_table, weight):
        spec = on_table()
        reports = TableWorld(tiny(), spec).reports(_trial(spec, 0.9, weight, 0), 0)
        expected = [score(0.9, weight, 0, epoch) for epoch in (1, 2, 3)]
        assert [r[VAL_ACCURACY] for r in reports] == pytest.approx(expected)

    def test_the_three_nearest_weights_answer(self, on_table):
        """Far away, another value changes nothing."""
        rows = tiny().rows
        more = [rows]
        for weight, bump in ((0.25, 0.0), (0.75, 0.0)):
            half = rows[rows["kd_weight"] == 0.5]
            more.append(half.assign(kd_weight=weight, score=half["score"] + bump))
        table = ResponseTable(pd.concat(more, ignore_index=True), VAL_ACCURACY, 1000, 10)
        bumped = table.rows.assign(
            score=table.rows["score"] + (table.rows["kd_weight"] == 1.0) * 0.3
        )
        spec = on_table()
        near = _trial(spec, 0.1, 0.3, 0)
        other = ResponseTable(bumped, VAL_ACCURACY, 1000, 10)
        assert TableWorld(table, spec).reports(near, 0) == TableWorld(other, spec).reports(near, 0)

    def test_temperatures_are_interpolated_over_their_logarithm(self, on_table):
        rows = tiny().rows
        hot = rows.assign(temperature=16.0, score=rows["score"] + 0.1)
        both = ResponseTable(pd.concat([rows, hot], ignore_index=True), VAL_ACCURACY, 1000, 10)
        spec = on_table(tune={"temperature": {"low": 4.0, "high": 16.0, "log": True}})
        world = TableWorld(both, spec)
        (last,) = world.reports({**_trial(spec, 0.1, 0.5, 0), "temperature": 8.0}, 0)[-1:]
        assert last[VAL_ACCURACY] == pytest.approx(score(0.1, 0.5, 0, 3) + 0.05)
        assert world.temperatures(spec) == (4.0, 16.0)

    def test_a_replication_takes_each_of_the_seeds_once(self, on_table):
        spec = on_table()
        world = TableWorld(tiny(), spec)
        drawn = [
            sorted(world.reports(_trial(spec, 0.1, 0.5, s), draw)[-1][VAL_ACCURACY] for s in (0, 1))
            for draw in range(6)
        ]
        assert all(each == drawn[0] for each in drawn)

    def test_likelihoods_are_reported_where_the_table_has_them(self, on_table):
        spec = on_table()
        reports = TableWorld(tiny(val_nll_scaled=0.7), spec).reports(_trial(spec, 0.1, 0.3, 0), 0)
        assert [r["val_nll_scaled"] for r in reports] == pytest.approx([0.7] * 3)

    def test_runs_that_were_stopped_early_do_not_answer(self, on_table):
        rows = tiny().rows
        short = (rows["kd_weight"] == 0.5) & (rows["seed"] == 1) & (rows["epoch"] > 1)
        table = ResponseTable(rows[~short], VAL_ACCURACY, 1000, 10)
        spec = on_table()
        (last,) = TableWorld(table, spec).reports(_trial(spec, 0.9, 0.5, 1), 0)[-1:]
        ends = [score(0.9, weight, 1, 3) for weight in (0.0, 1.0)]
        assert last[VAL_ACCURACY] == pytest.approx(np.mean(ends))  # a straight line is left


def _trial(spec, fraction, weight, seed):
    (context,) = (c for c in spec.context_list if c.values["fraction"] == fraction)
    return spec.trial_config(context, {"kd_weight": weight}, seed).model_dump(mode="json")


class TestRegret:
    def test_truth_and_regret_are_those_computed_by_hand(self, on_table, tmp_path):
        """The mean of seeds 0 and 1 after epoch 3; the fixed design answers ½ for both."""
        spec = on_table()
        world = TableWorld(tiny(), spec)
        best = [
            optima(spec, world)[c.key] for c in spec.context_list
        ]  # fractions .1 and .9 in this order
        assert [each.kd_weight for each in best] == [0.5, 0.0]
        assert [each.score for each in best] == pytest.approx([0.5 + 0.03 + 0.001] * 2)
        played = simulate(spec, world, designer=fixed(0.0, 0.5, 1.0, 0.25, 0.75, 0.4))
        curve = answers(played, world, Places.at(tmp_path))
        small, large = curve.sort_values("fraction").to_dict("records")
        # Scores are parabolas without noise: both answers are right, as far as the fit is exact.
        assert small["kd_weight"] == pytest.approx(0.5, abs=0.01)
        assert large["kd_weight"] == pytest.approx(0.0, abs=0.01)
        # At ½ ± .01 a parabola of curvature .2 has lost .002 points, at .01 from its end too.
        assert (small["regret"], large["regret"]) == pytest.approx((0.0, 0.0), abs=0.0021)

    def test_a_wrong_answer_costs_what_the_table_says(self, on_table, tmp_path):
        """Only seed 1 makes KD look good at .9; the answer follows seed 1, the truth does not."""
        rows = tiny().rows
        lucky = (rows["fraction"] == 0.9) & (rows["seed"] == 0)
        wrong = rows["score"] + lucky * 0.4 * rows["kd_weight"]
        table = ResponseTable(rows.assign(score=wrong), VAL_ACCURACY, 1000, 10)
        spec = on_table(seeds={"trials": 1})
        world = TableWorld(table, spec)
        played = simulate(spec, world, designer=fixed(0.0, 0.5, 1.0, 0.25, 0.75, 0.4))
        curve = answers(played, world, Places.at(tmp_path))
        row = curve[curve["fraction"] == 0.9].iloc[0]
        # Seed 0: .4 w - .2 w², best at 1. The mean of both: .2 w - .2 w², best at ½ by .05.
        assert row["kd_weight"] == pytest.approx(1.0)
        assert row["best_kd_weight"] == pytest.approx(0.5)
        assert row["regret"] == pytest.approx(5.0)

    def test_ridge_answers_are_held_against_the_expectation(self, make_spec, tmp_path):
        spec = make_spec(**RIDGE, sampler="random")
        world = RidgeWorld()
        curve = answers(simulate(spec, world), world, Places.at(tmp_path))
        assert (curve["regret"] >= -1e-9).all()
        assert curve["regret"].max() < 10
        small, large = curve.sort_values("fraction")["best_kd_weight"]
        assert small > large

    def test_what_is_missing_is_left_out_of_a_spread(self):
        assert spread([1.0, 3.0, np.nan]) == pytest.approx({"median": 2.0, "p90": 2.8})
        assert spread([np.nan]) == {"median": None, "p90": None}


class TestWhatATableCannotAnswer:
    def refuse(self, table, spec):
        with pytest.raises(UsageError) as refused:
            TableWorld(table, spec)
        return str(refused.value)

    def test_contexts_that_it_lacks_are_named(self, on_table):
        contexts = {"method": "random", "fraction": [0.1, 0.3], "teacher": "cnn4"}
        message = self.refuse(tiny(), on_table(contexts=contexts))
        assert "1 fault" in message
        assert "f=0.3" in message
        assert "fraction 0.3 is unknown there, known: 0.1, 0.9" in message

    def test_all_faults_come_in_one_message(self, on_table):
        contexts = {"method": "el2n", "fraction": [0.1, 0.9], "teacher": "cnn4"}
        message = self.refuse(tiny(), on_table(contexts=contexts))
        assert "2 faults" in message
        assert message.count("method el2n is unknown there") == 2

    def test_more_seeds_than_there_are(self, on_table):
        message = self.refuse(tiny(), on_table(seeds={"trials": 3}))
        assert message == (
            "seeds.trials: 3 is more than the table has in every context; allowed: 1 to 2"
        )

    def test_another_number_of_epochs(self, on_table):
        message = self.refuse(tiny(), on_table(recipe={"epochs": 9}))
        assert "its runs have 3 epochs, the search's 9" in message

    def test_a_rung_between_recorded_epochs(self, on_table):
        rows = tiny().rows
        table = ResponseTable(rows[rows["epoch"] != 2], VAL_ACCURACY, 1000, 10)
        message = self.refuse(table, on_table(early_stopping={"name": "asha", "grace_epochs": 2}))
        assert "compared at epoch 2 (early_stopping), and it has epochs 1, 3" in message

    def test_kd_weights_outside_what_was_run(self, on_table):
        rows = tiny().rows
        table = ResponseTable(rows[rows["kd_weight"] < 1], VAL_ACCURACY, 1000, 10)
        message = self.refuse(table, on_table())
        assert "KD weights 0 to 1 are not covered at seeds 0, 1" in message

    def test_another_temperature(self, on_table):
        message = self.refuse(tiny(temperature=2.0), on_table())
        assert "temperatures 4 to 4 are not covered" in message

    def test_another_objective(self, make_spec):
        message = self.refuse(tiny(), make_spec(**RIDGE))
        assert "its scores are val_accuracy, the search maximises val_r2" in message


RIDGE_FILE = """
name: ridge
dataset: {name: ridge}
student: linear
recipe: {epochs: 9}
contexts: {method: random, fraction: [0.1, 0.9], teacher: linear}
seeds: {trials: 2}
budget: {trials_per_context: 8}
sampler: random
"""
TABLE_FILE = """
name: replayed
dataset: {name: digits}
student: table:mlp16
recipe: {epochs: 3}
contexts: {method: random, fraction: [0.1, 0.9], teacher: cnn4}
seeds: {trials: 2}
budget: {trials_per_context: 8}
early_stopping: {name: none}
sampler: random
"""


class TestTheCommand:
    def call(self, *words):
        from search.cli import app

        return CliRunner().invoke(app, [str(word) for word in words])

    def test_json_holds_answers_compute_and_regret(self, tmp_path):
        file = tmp_path / "s.yaml"
        file.write_text(RIDGE_FILE)
        report = json.loads(self.call("simulate", file, "--format", "json").stdout)
        assert report["trials"] == 16
        assert 0 < report["sweeps"] <= 8
        assert len(report["contexts"]) == 2
        regrets = [context["regret"] for context in report["contexts"]]
        assert report["regret"] == pytest.approx(np.mean(regrets))

    def test_replications_give_medians_and_percentiles(self, tmp_path):
        file, table = tmp_path / "s.yaml", tmp_path / "t.parquet"
        file.write_text(TABLE_FILE)
        write_table(tiny(), table)
        words = ("simulate", file, "--table", table, "--replications", 3)
        report = json.loads(self.call(*words, "--format", "json").stdout)
        assert report["replications"] == 3
        assert report["sweeps"] == {"median": 8.0, "p90": 8.0}
        assert report["regret"]["median"] == pytest.approx(0.0, abs=1e-4)
        shown = self.call(*words)
        assert shown.exit_code == 0
        assert "over 3 replications of 8.00 sweeps" in shown.stdout

    def test_what_is_found_is_shown(self, tmp_path):
        file = tmp_path / "s.yaml"
        file.write_text(RIDGE_FILE)
        shown = self.call("simulate", file, "--workers", 4)
        assert shown.exit_code == 0, shown.output
        assert "Regret:" in shown.stdout
        assert "16 trials:" in shown.stdout

    def test_a_search_on_images_needs_a_table(self, tmp_path):
        file = tmp_path / "s.yaml"
        file.write_text(TABLE_FILE)
        result = self.call("simulate", file)
        assert result.exit_code == 2
        assert "--table: missing; a search on digits is replayed on recorded runs" in result.output
