import pytest

from search.errors import UsageError
from search.extension import check_extension

CONTEXTS = {"method": ["random"], "fraction": [0.1, 0.9], "teacher": ["cnn4"]}
RECORDED = {
    "recipe": {"epochs": 9, "batch_size": 32},
    "contexts": CONTEXTS,
    "seeds": {"trials": 2, "teacher": 1, "scores": 3},
    "budget": {"trials_per_context": 12},
}


@pytest.fixture
def refusal(make_spec):
    """What is said of an extension; "" if it is allowed."""

    def check(**sections):
        recorded, extended = make_spec(**RECORDED), make_spec(**{**RECORDED, **sections})
        try:
            check_extension(recorded, extended)
        except UsageError as refused:
            return str(refused)
        return ""

    return check


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"contexts": {**CONTEXTS, "fraction": [0.9, 0.5, 0.1]}}, id="fractions"),
        pytest.param({"contexts": {**CONTEXTS, "method": ["el2n", "random"]}}, id="methods"),
        pytest.param({"contexts": {**CONTEXTS, "teacher": ["cnn4", "cnn8"]}}, id="teachers"),
        pytest.param({"seeds": {"trials": 5, "teacher": 1, "scores": 3}}, id="seeds"),
        pytest.param({"budget": {"trials_per_context": 13}}, id="budget"),
        pytest.param({"resources": {"cpu": 4, "gpu": 0.5, "concurrent": 9}}, id="resources"),
        pytest.param({"sampler": "random"}, id="sampler"),
        pytest.param({"sampler": "grid"}, id="baseline"),
        pytest.param({"checkpoint_every_s": 5}, id="checkpoints"),
        pytest.param({"faults": {"retries": 9}}, id="faults"),
    ],
)
def test_more_of_the_same_is_allowed(refusal, sections):
    assert refusal(**sections) == ""


@pytest.mark.parametrize(
    ("sections", "key", "said"),
    [
        ({"name": "other"}, "name", "'other' is another search; allowed: 'rehearsal'"),
        ({"student": "cnn16"}, "student", "cnn16 differs from the recorded cnn8"),
        ({"dataset": {"name": "digits", "label_noise": 0.1}}, "dataset", "'label_noise': 0.1"),
        ({"recipe": {"epochs": 10, "batch_size": 32}}, "recipe", "'epochs': 10"),
        ({"tune": {"kd_weight": {"low": 0.1, "high": 1}}}, "tune", "'low': 0.1"),
        ({"early_stopping": {"name": "none"}}, "early_stopping", "'name': 'none'"),
        ({"early_stopping": {"name": "asha", "reduction_factor": 2}}, "early_stopping", "2.0"),
        ({"seed": 1}, "seed", "1 differs from the recorded 0"),
        ({"seeds": {"trials": 2, "teacher": 2, "scores": 3}}, "seeds.teacher", "2 differs from"),
        ({"seeds": {"trials": 2, "teacher": 1, "scores": 4}}, "seeds.scores", "the recorded 3"),
        ({"sampler": "ray-stock"}, "sampler", "'ray-stock' alone compares trials of all contexts"),
        (
            {"seeds": {"trials": 1, "teacher": 1, "scores": 3}},
            "seeds.trials",
            "1 is less than the recorded 2; allowed: 2 or more",
        ),
        (
            {"budget": {"trials_per_context": 11}},
            "budget.trials_per_context",
            "11 is less than the recorded 12; allowed: 12 or more",
        ),
        ({"pruning": {"keep": "easiest"}}, "pruning", "'keep': 'easiest'"),
        ({"soft_labels": "fixed"}, "soft_labels", "'fixed' differs from the recorded 'auto'"),
        (
            {"contexts": {**CONTEXTS, "fraction": [0.1, 0.5]}},
            "contexts",
            "random f=0.9 teacher=cnn4 is missing; contexts may be added, not taken away",
        ),
    ],
)
def test_what_would_make_trials_incomparable_is_refused_by_name(refusal, sections, key, said):
    first, *faults = refusal(**sections).split("\n  ")
    assert first == "rehearsal cannot be extended like this: 1 fault"
    (fault,) = faults
    assert fault.startswith(f"{key}: ")
    assert said in fault


@pytest.mark.parametrize("section", ["teachers", "score_files"])
def test_files_that_were_brought_must_be_what_they_were(make_spec, section):
    name = {"teachers": "cnn4", "score_files": "file:own.npy"}[section]
    contexts = {**CONTEXTS, "method": ["random", "file:own.npy"]}
    before, after = (
        make_spec(
            **{**RECORDED, "contexts": contexts},
            **{section: {name: {"file": "/own", "sha256": digest}}},
        )
        for digest in ("1a", "2b")
    )
    check_extension(before, before)
    with pytest.raises(UsageError, match=rf"{section}.{name}: .*2b.* differs from .*1a"):
        check_extension(before, after)


def test_all_faults_are_told_together(refusal):
    said = refusal(
        seed=3,
        contexts={**CONTEXTS, "fraction": [0.5]},
        seeds={"trials": 1, "teacher": 1, "scores": 3},
        budget={"trials_per_context": 24},
    )
    first, *faults = said.split("\n  ")
    assert first == "rehearsal cannot be extended like this: 4 faults"
    keys = [fault.split(":")[0] for fault in faults]
    assert keys == ["seed", "contexts", "contexts", "seeds.trials"]


def test_of_another_student_the_contexts_are_not_called_missing(refusal):
    """All of them would be: they are named by data set and student."""
    assert refusal(student="cnn16", contexts={**CONTEXTS, "fraction": 0.1}).count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"wall_time_s": 60}, {"wall_time_s": 90}, ""),
        ({"wall_time_s": 60}, {"wall_time_s": 30}, "budget.wall_time_s: 30 is less than"),
        ({"epoch_samples": 2e6}, {"epoch_samples": 1e6}, "recorded 2e+06; allowed: 2e+06 or more"),
        ({"wall_time_s": 60}, {"trials_per_context": 9}, ""),
        ({"trials_per_context": 12}, {"wall_time_s": 60}, ""),
        ({"trials_per_context": 12}, {"trials_per_context": 12, "wall_time_s": 60}, ""),
        ({"until": {"regret": 0.2}}, {"until": {"regret": 0.1, "confidence": 0.95}}, ""),
        ({"until": {"regret": 0.2}}, {"until": {"regret": 0.3}}, "until.regret: 0.3 is more than"),
        (
            {"until": {"regret": 0.2}},
            {"until": {"regret": 0.2, "confidence": 0.8}},
            "until.confidence: 0.8 is less than the recorded 0.9; allowed: 0.9 or more",
        ),
    ],
)
def test_a_criterion_of_the_budget_may_grow_be_dropped_or_be_added(make_spec, old, new, said):
    recorded, extended = make_spec(budget=old), make_spec(budget=new)
    if not said:
        assert check_extension(recorded, extended) is None
        return
    with pytest.raises(UsageError, match="1 fault") as refused:
        check_extension(recorded, extended)
    assert said in str(refused.value)
