import numpy as np
import pandas as pd
import pytest
import torch

from trainables.config import ScoresFile
from trainables.pruning import file

VALUES = [0.5, -1.25, 3.0, 2.0]
SHUFFLED = [2, 0, 3, 1]


def read_scores(path, samples):
    return file.read_scores(ScoresFile(file=str(path)), samples)


def _write(path, table):
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)
    return path


def _table(**columns):
    return pd.DataFrame(columns)


class TestWhatIsRead:
    """Forms that a file of scores may have."""

    def test_an_array(self, tmp_path):
        np.save(tmp_path / "s.npy", np.array(VALUES))
        values = read_scores(tmp_path / "s.npy", 4)
        assert values.tolist() == VALUES
        assert values.dtype == torch.float64

    @pytest.mark.parametrize("dtype", ["int32", "uint8", "float16", "float32"])
    def test_an_array_of_any_kind_of_number(self, dtype, tmp_path):
        np.save(tmp_path / "s.npy", np.array([3, 1, 2], dtype=dtype))
        assert read_scores(tmp_path / "s.npy", 3).tolist() == [3, 1, 2]

    def test_a_csv_column_without_a_name(self, tmp_path):
        (tmp_path / "s.csv").write_text("0.5\n-1.25\n3\n2\n")
        assert read_scores(tmp_path / "s.csv", 4).tolist() == VALUES

    def test_a_suffix_in_capitals(self, tmp_path):
        (tmp_path / "S.CSV").write_text("0.5\n-1.25\n3\n2\n")
        assert read_scores(tmp_path / "S.CSV", 4).tolist() == VALUES

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    @pytest.mark.parametrize(
        "table",
        [
            _table(difficulty=VALUES),
            _table(score=VALUES),
            _table(image=["a", "b", "c", "d"], score=VALUES, other=[1, 2, 3, 4]),
            _table(index=SHUFFLED, score=[VALUES[i] for i in SHUFFLED]),
            _table(other=[0, 0, 0, 0], score=[VALUES[i] for i in SHUFFLED], index=SHUFFLED),
            _table(index=SHUFFLED, loss=[VALUES[i] for i in SHUFFLED]),
        ],
        ids=["one", "score", "more", "index", "index and more", "index and one"],
    )
    def test_a_table(self, suffix, table, tmp_path):
        path = _write(tmp_path / f"s{suffix}", table)
        assert read_scores(path, 4).tolist() == VALUES

    def test_a_parquet_table_whose_own_index_is_the_key(self, tmp_path):
        table = _table(score=[VALUES[i] for i in SHUFFLED]).set_index(
            pd.Index(SHUFFLED, name="index")
        )
        table.to_parquet(tmp_path / "s.parquet")
        assert read_scores(tmp_path / "s.parquet", 4).tolist() == VALUES

    def test_scores_that_differ_in_the_last_digit_stay_different(self, tmp_path):
        np.save(tmp_path / "s.npy", np.array([1.0, 1.0 + 1e-12]))
        assert len(read_scores(tmp_path / "s.npy", 2).unique()) == 2


class TestWhatIsRefused:
    """One message that names the file, what is there and what may be."""

    def _refused(self, path, message, samples=4):
        with pytest.raises(ValueError, match=message) as caught:
            read_scores(path, samples)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_missing_file(self, tmp_path):
        self._refused(tmp_path / "s.csv", "there is no such file")

    def test_a_folder(self, tmp_path):
        (tmp_path / "s.csv").mkdir()
        self._refused(tmp_path / "s.csv", "there is no such file")

    @pytest.mark.parametrize("name", ["s.txt", "s", "s.pkl"])
    def test_an_unknown_suffix(self, name, tmp_path):
        (tmp_path / name).write_text("1\n")
        self._refused(tmp_path / name, r"its suffix is '.*'; allowed: \.npy, \.csv, \.parquet")

    @pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
    def test_another_files_content(self, suffix, tmp_path):
        (tmp_path / f"s{suffix}").write_bytes(b"\x93\x00\xff\x12 neither of them")
        self._refused(tmp_path / f"s{suffix}", "it cannot be read")

    @pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
    def test_an_empty_file(self, suffix, tmp_path):
        (tmp_path / f"s{suffix}").touch()
        self._refused(tmp_path / f"s{suffix}", "it cannot be read")

    def test_pickled_objects_which_are_not_run(self, tmp_path):
        np.save(tmp_path / "s.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
        self._refused(tmp_path / "s.npy", "it cannot be read: Object arrays")

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    @pytest.mark.parametrize("length", [3, 5])
    def test_a_wrong_length(self, suffix, length, tmp_path):
        path = _write(tmp_path / f"s{suffix}", _table(score=list(range(length))))
        self._refused(path, f"{length} scores for the 4 samples of the training split")

    def test_an_array_of_another_shape(self, tmp_path):
        np.save(tmp_path / "s.npy", np.zeros((4, 1)))
        self._refused(tmp_path / "s.npy", "4×1 scores for the 4 samples")

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_scores_that_are_not_finite(self, suffix, value, tmp_path):
        path = _write(tmp_path / f"s{suffix}", _table(score=[0.0, 1.0, value, 2.0]))
        self._refused(path, rf"score 2 \(counted from 0\) is {value}, one of 1 .*allowed: finite")

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_words(self, suffix, tmp_path):
        path = _write(tmp_path / f"s{suffix}", _table(score=["hard", "easy", "hard", "easy"]))
        self._refused(path, "'hard' is no score; allowed: finite numbers")

    def test_several_columns_none_of_them_named(self, tmp_path):
        path = _write(tmp_path / "s.csv", _table(a=VALUES, b=VALUES))
        self._refused(path, "its columns are 'a', 'b'; allowed: one, or one named 'score'")

    def test_positions_alone(self, tmp_path):
        path = _write(tmp_path / "s.csv", _table(index=SHUFFLED))
        self._refused(path, "its columns are 'index'; allowed")

    def test_a_position_twice(self, tmp_path):
        path = _write(tmp_path / "s.csv", _table(index=[0, 1, 1, 3], score=VALUES))
        self._refused(path, "index 1 is there 2 times; allowed: once")

    @pytest.mark.parametrize("outside", [-1, 4])
    def test_a_position_outside_the_split(self, outside, tmp_path):
        path = _write(tmp_path / "s.csv", _table(index=[0, 1, 2, outside], score=VALUES))
        self._refused(path, f"index {outside} is not of the split; allowed: 0 to 3")

    def test_positions_that_are_no_whole_numbers(self, tmp_path):
        path = _write(tmp_path / "s.csv", _table(index=[0.0, 1.5, 2.0, 3.0], score=VALUES))
        self._refused(path, "'index' is of type float64; allowed: whole numbers")
