import io

import pandas as pd
import pytest
from rich.console import Console

from search import printing


@pytest.fixture
def curve():
    rows = [("random", "cnn4", 0.1, 0.8), ("random", "cnn4", 0.5, 0.4), ("el2n", "cnn4", 0.1, 1.0)]
    curve = pd.DataFrame(rows, columns=["method", "teacher", "fraction", "kd_weight"])
    curve.attrs["contexts"] = ("method", "teacher", "fraction")
    return curve


def printed(monkeypatch, curve, **console):
    file = io.StringIO()
    monkeypatch.setattr(printing, "out", Console(file=file, highlight=False, **console))
    printing.print_curve(curve)
    return file.getvalue()


def test_a_terminal_gets_a_plot_and_a_file_none(monkeypatch, curve):
    shown = printed(monkeypatch, curve, force_terminal=True, width=80, no_color=True)
    assert "teacher cnn4" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert printed(monkeypatch, curve, width=80) == ""


def test_a_curve_of_one_fraction_is_no_plot(monkeypatch, curve):
    few = curve[curve["fraction"] == 0.1]
    assert printed(monkeypatch, few, force_terminal=True, width=80) == ""
