"""Code in the README runs as it stands there."""

import re
from pathlib import Path

import torch
from torch import nn

from analysis.schedule import Schedule

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
LAW = {
    "method": "random",
    "teacher": "cnn4",
    "family": "clipped-log-linear",
    "parameters": {"intercept": 0.2, "slope": -0.3},
    "points": [{"fraction": f, "kd_weight": 0.5, "low": 0.4, "high": 0.6} for f in (0.1, 0.9)],
}


def test_a_training_loop_of_a_user_s_own_uses_a_schedule(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Schedule.model_validate({"laws": [LAW]}).save("schedule.json")
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (loop,) = [block for block in blocks if "loss.backward()" in block]
    torch.manual_seed(0)
    images, teacher, student = torch.randn(200, 8), nn.Linear(8, 4), nn.Linear(8, 4)
    labels = teacher(images).argmax(1)
    names = {
        "images": images,
        "labels": labels,
        "kept": torch.arange(0, 200, 4),
        "teacher": teacher,
        "student": student,
        "optimizer": torch.optim.SGD(student.parameters(), lr=0.1),
        "epochs": 30,
    }
    exec(loop, names)
    assert names["kd_weight"] == Schedule.model_validate({"laws": [LAW]})(0.25)
    assert (student(images).argmax(1) == labels).float().mean() > 0.8
