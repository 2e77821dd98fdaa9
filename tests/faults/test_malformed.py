"""Malformed files, through the command: exit 2, the key named, nothing started."""

import copy
import re

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from search.cli import app
from tests.search.conftest import RAW
from tests.search.test_cluster_file import BAD
from tests.search.test_specfile import FAULTS, spoil

pytestmark = pytest.mark.faults


def refused(folder, content, *command):
    """What a command says of a file that holds this."""
    with (folder / "mine.yaml").open("w") as file:
        YAML(typ="safe").dump(content, file)
    result = CliRunner().invoke(app, [*command, str(folder / "mine.yaml")], prog_name="kdcurve")
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


@pytest.mark.parametrize(("key", "value", "words"), FAULTS)
def test_a_search_file_with_a_fault_starts_nothing(tmp_path, monkeypatch, key, value, words):
    home = tmp_path / "home"
    monkeypatch.setenv("KDCURVE_HOME", str(home))
    said = refused(tmp_path, spoil(copy.deepcopy(RAW), key, value), "search")
    assert words[0] in said
    assert not home.exists()


@pytest.mark.parametrize("case", BAD)
def test_a_cluster_file_with_a_fault_is_refused(tmp_path, case):
    base, edit, expected = BAD[case]
    config = copy.deepcopy(base)
    edit(config)
    assert re.search(expected, refused(tmp_path, config, "cluster", "check"))
