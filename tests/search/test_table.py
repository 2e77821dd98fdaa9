"""Response tables: from a record, into a file and back, and what is refused."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from analysis.errors import AnalysisError
from analysis.table import COLUMNS, ResponseTable, read_table, write_table
from search.errors import KdcurveError
from search.journal import EventKind, Journal
from search.replay import TableWorld
from search.simulator import simulate
from search.table import recorded_table
from trainables.record import VAL_ACCURACY, Outcome

ROW = {
    **{"dataset": "digits", "student": "cnn8", "method": "random", "fraction": 0.1},
    **{"teacher": "cnn4", "teacher_fraction": 1.0, "temperature": 4.0, "label_noise": 0.0},
    **{"kd_weight": 0.05, "seed": 0, "epoch": 1, "score": 0.5, "val_nll_scaled": np.nan},
}


def table(*changes):
    return ResponseTable(pd.DataFrame([{**ROW, **c} for c in changes]), VAL_ACCURACY, 1000, 10)


def test_a_table_comes_back_as_it_was_written(tmp_path):
    """In single precision, with parameters as they were meant."""
    written = table({}, {"epoch": 2, "score": 0.75, "val_nll_scaled": 0.3}, {"fraction": 0.7})
    write_table(written, tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet")
    assert list(found.rows.columns) == list(COLUMNS)
    assert (found.objective, found.train_samples, found.classes) == (VAL_ACCURACY, 1000, 10)
    pd.testing.assert_frame_equal(found.rows, written.rows, rtol=1e-6)
    assert found.rows["fraction"].tolist() == [0.1, 0.1, 0.7]
    assert found.rows["kd_weight"].tolist() == [0.05] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kd_weight": 1.5}, "kd_weight: 1.5 in row 1; allowed: 0 <= kd_weight <= 1"),
        ({"fraction": 0.0}, "fraction: 0 in row 1"),
        ({"score": np.nan}, "score: nan in row 1"),
        ({"score": np.inf}, "score: inf in row 1"),
        ({"epoch": 0}, "epoch: 0 in row 1"),
        ({"temperature": 0.0}, "temperature: 0 in row 1"),
        ({}, "1 rows are there twice, the first: dataset digits, .* seed 0, epoch 1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change, message):
    with pytest.raises(AnalysisError, match=message):
        table({}, change)


def test_columns_that_are_missing_are_named():
    rows = pd.DataFrame([ROW]).drop(columns=["score", "seed"])
    with pytest.raises(AnalysisError, match="columns are missing: seed, score"):
        ResponseTable(rows, VAL_ACCURACY, 1000, 10)


def test_a_table_without_rows_is_refused():
    with pytest.raises(AnalysisError, match="it has no rows"):
        ResponseTable(pd.DataFrame([ROW]).iloc[:0], VAL_ACCURACY, 1000, 10)


class TestFiles:
    def refuse(self, path):
        with pytest.raises(AnalysisError) as refused:
            read_table(path)
        message = str(refused.value)
        assert path.name in message
        assert "\n" not in message
        return message

    def test_no_file(self, tmp_path):
        assert "cannot read the table" in self.refuse(tmp_path / "none.parquet")

    def test_no_parquet(self, tmp_path):
        (tmp_path / "text.parquet").write_text("α, score\n")
        assert "cannot read the table" in self.refuse(tmp_path / "text.parquet")

    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ({}, "names version None; this kdcurve reads version 1"),
            ({"version": "2"}, "names version 2"),
            ({"version": "1", "classes": "10"}, "its metadata lacks 'objective'"),
            ({"version": "1", "objective": "x", "train_samples": "many"}, "many"),
        ],
    )
    def test_metadata(self, tmp_path, metadata, message):
        whole = pa.Table.from_pandas(pd.DataFrame([ROW])).replace_schema_metadata(metadata)
        pq.write_table(whole, tmp_path / "t.parquet")
        assert message in self.refuse(tmp_path / "t.parquet")

    def test_wrong_rows(self, tmp_path):
        metadata = {"version": "1", "objective": "x", "train_samples": "9", "classes": "2"}
        rows = pd.DataFrame([{**ROW, "seed": -1}])
        pq.write_table(
            pa.Table.from_pandas(rows).replace_schema_metadata(metadata), tmp_path / "t.parquet"
        )
        assert "seed: -1 in row 0" in self.refuse(tmp_path / "t.parquet")


class TestOfARecordedSearch:
    @pytest.fixture
    def searched(self, make_spec, journal, plan, rehearsal, tmp_path):
        spec = make_spec(sampler="random")
        ledger = plan(journal, spec)
        rehearsal(spec, ledger, tmp_path).run()
        return spec, ledger

    def test_every_epoch_of_every_trial_is_there(self, searched, journal):
        spec, ledger = searched
        found = recorded_table(journal, spec.name)
        assert (found.objective, found.train_samples) == (VAL_ACCURACY, spec.info.train_samples)
        trials = ledger.trials.values()
        assert len(found.rows) == sum(t.epoch for t in trials)
        assert any(t.outcome is Outcome.STOPPED_EARLY for t in trials)
        assert set(found.rows["score"]) == {s for t in trials for s in t.scores.values()}
        assert set(found.rows["seed"]) == {0, 1}

    def test_the_search_replayed_on_its_own_table_repeats_itself(self, searched, journal, tmp_path):
        """KD weights are rounded to six decimals, and so are the answers to them nearly."""
        spec, ledger = searched
        write_table(recorded_table(journal, spec.name), tmp_path / "t.parquet")
        world = TableWorld(read_table(tmp_path / "t.parquet"), spec)
        again = simulate(spec, world, workers=1).ledger
        assert list(again.trials) == list(ledger.trials)
        for number in [n for n, t in ledger.trials.items() if t.outcome is Outcome.COMPLETE]:
            first, second = ledger.trials[number], again.trials[number]
            assert first.values == second.values
            assert second.scores[1] == pytest.approx(first.scores[1], abs=1e-4)

    def test_of_two_trials_with_the_same_parameters_the_newest_counts(
        self, make_spec, journal, plan
    ):
        spec = make_spec()
        ledger = plan(journal, spec)
        for number, score in ((0, 0.25), (1, 0.75)):
            values = {"context": spec.context_list[0].key, "values": {"kd_weight": 0.5}}
            ledger.record(EventKind.PROPOSED, number, **values, seed=0, start_design=False)
            metrics = {"epoch": 1, VAL_ACCURACY: score}
            ledger.record(EventKind.REPORTED, number, epoch=1, metrics=metrics)
        assert recorded_table(journal, spec.name).rows["score"].tolist() == [0.75]

    def test_a_search_without_reports_makes_none(self, make_spec, journal, plan):
        spec = make_spec()
        plan(journal, spec)
        with pytest.raises(KdcurveError, match="nothing of rehearsal was reported yet"):
            recorded_table(journal, spec.name)

    def test_the_command_writes_it(self, make_spec, plan, rehearsal, tmp_path):
        from search.cli import app

        spec = make_spec(sampler="random")
        journal = Journal(f"sqlite:///{tmp_path / 'record.db'}")
        rehearsal(spec, plan(journal, spec), tmp_path).run(trials=2)
        words = ["table", spec.name, "--home", str(tmp_path), "--out", str(tmp_path / "t.parquet")]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert len(read_table(tmp_path / "t.parquet").rows) == 18
        assert "(18 rows)" in result.stdout
