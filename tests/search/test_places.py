from pathlib import Path

import pytest

from search.errors import KdcurveError
from search.places import Places


def test_everything_lives_under_home_unless_told_otherwise(tmp_path):
    places = Places.at(tmp_path)
    assert places.record == f"sqlite:///{tmp_path}/record.db"
    assert places.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert (places.cache, places.tune) == (tmp_path / "cache", tmp_path / "tune")
    assert places.folder("a") == tmp_path / "searches" / "a"
    assert places.artifact_root() == (tmp_path / "mlartifacts").as_uri()


def test_each_place_can_be_replaced_alone(tmp_path):
    storage = tmp_path / "shared"
    places = Places.at(tmp_path, "postgresql://h/d", "http://h:5000", storage)
    assert (places.record, places.tracking_uri) == ("postgresql://h/d", "http://h:5000")
    assert (places.cache, places.folder("a")) == (storage / "cache", tmp_path / "searches" / "a")
    assert places.artifact_root() is None  # a tracking server knows where its artifacts go


def test_a_relative_home_is_where_the_command_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = Places.at()
    monkeypatch.chdir("/")
    assert places.home == tmp_path / "kdcurve-data"


def test_folders_are_made_as_deep_as_needed(tmp_path):
    places = Places.at(tmp_path / "a" / "b", storage=tmp_path / "c" / "d")
    places.make()
    places.make()
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / "c" / "d").is_dir()
    for made in (tmp_path / "a" / "b", tmp_path / "c" / "d"):
        assert made.stat().st_mode & 0o777 == 0o700, "for its owner alone"


@pytest.mark.parametrize("below", ["", "deeper"])
@pytest.mark.parametrize("option", ["home", "storage"])
def test_a_folder_that_cannot_be_made_is_named_with_what_to_do(tmp_path, option, below):
    (tmp_path / "file").write_text("")
    places = Places.at(**{"home": tmp_path, option: tmp_path / "file" / below})
    with pytest.raises(KdcurveError, match=r"cannot create the folder .*file.*--home or --storage"):
        places.make()


def test_a_folder_without_permission_to_write_is_refused(tmp_path, monkeypatch):
    # Asked of the system, since a test may run as root, who may write anywhere.
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(KdcurveError, match="cannot write to the folder"):
        Places.at(tmp_path).make()
