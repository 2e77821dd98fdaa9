import os

import pytest
import ray

from search.cluster import connected, fit, fit_later, may_grow
from search.errors import KdcurveError
from search.sections import Resources
from search.specfile import read_yaml
from tests.conftest import ROOT
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


def test_a_trial_fits_into_one_machine_or_not_at_all():
    machine = {"CPU": 4, "GPU": 1}
    assert fit(Resources(cpu=3), machine) == 1
    assert fit(Resources(cpu=5), machine) == 0
    assert fit(Resources(cpu=1, gpu=0.5), machine) == 2
    assert fit(Resources(cpu=0.1), {"CPU": 1}) == 10
    assert fit(Resources(cpu=1, gpu=0.1), {"CPU": 16, "GPU": 1}) == 10
    assert fit(Resources(), {}) == 0


def test_trials_that_fit_once_all_workers_are_up():
    cluster = read_yaml(ROOT / "cluster.yaml", "")
    assert fit_later(Resources(cpu=2, gpu=0.5), cluster) == 16
    assert fit_later(Resources(cpu=8), cluster) == 0, "the head does not count"
    assert fit_later(Resources(), {}) == 0
    cluster["available_node_types"]["large"] = {"resources": {"CPU": 16}, "max_workers": 3}
    assert fit_later(Resources(cpu=4), cluster) == 3 * 4 + 5, "of 8 machines at most, the largest"


def test_a_machine_is_awaited_where_one_may_come():
    aws, local = (read_yaml(ROOT / name, "") for name in ("cluster.yaml", "cluster-local.yaml"))
    assert may_grow(Resources(cpu=4, gpu=1), aws, machines=1)
    assert not may_grow(Resources(cpu=5), aws, machines=1), "no machine is that large"
    assert may_grow(Resources(cpu=64), local, machines=2), "what its machines have is not known"
    assert not may_grow(Resources(cpu=64), local, machines=3), "all of them are up"
    assert not may_grow(Resources(), {}, machines=1)
