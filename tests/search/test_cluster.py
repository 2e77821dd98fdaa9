import os

import pytest
import ray

from search.cluster import connected
from search.errors import KdcurveError
from trainables.parts import PATH_VARIABLE


@pytest.fixture
def no_ray(monkeypatch):
    """Ray's start replaced: what it would see of the environment."""
    seen = []
    monkeypatch.setattr(ray, "init", lambda **_: seen.append(os.environ[PATH_VARIABLE]))
    monkeypatch.delenv(PATH_VARIABLE, raising=False)
    return seen


def test_each_search_of_a_process_has_its_paths_from_where_it_started(
    tmp_path, monkeypatch, no_ray
):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with connected(tmp_path / "ray", None):
            assert os.environ[PATH_VARIABLE] == str(tmp_path / name)
        assert PATH_VARIABLE not in os.environ
    assert no_ray == [str(tmp_path / "first"), str(tmp_path / "second")]


def test_a_folder_that_the_user_named_stays(tmp_path, monkeypatch, no_ray):
    monkeypatch.setenv(PATH_VARIABLE, "/elsewhere")
    with connected(tmp_path / "ray", None):
        pass
    assert no_ray == [os.environ[PATH_VARIABLE]] == ["/elsewhere"]


def test_ray_that_does_not_come_up_is_one_clear_error(tmp_path, monkeypatch, no_ray):
    def refuse(**_):
        raise Exception("The current node timed out during startup.\nmore")  # noqa: TRY002

    monkeypatch.setattr(ray, "init", refuse)
    with (
        pytest.raises(KdcurveError, match=r"^cannot start Ray: The current node timed out"),
        connected(tmp_path / "ray", None),
    ):
        pass
    assert PATH_VARIABLE not in os.environ, "nor is anything left behind"
