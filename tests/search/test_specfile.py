import json
import re
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from search.errors import UsageError
from search.specfile import json_schema, load_spec, parse_spec, shrink

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
NAN = float("nan")

# Where, what stands there, and the words that the one fault it makes must hold: the key, the
# value and what is allowed.
FAULTS = [
    ("recipes", {"epochs": 1}, ["recipes: unknown key", "did you mean 'recipe'?", "allowed: name"]),
    ("dataset.label_nois", 0.1, ["dataset.label_nois: unknown key", "'label_noise'", "validation"]),
    ("recipe.epoch", 3, ["recipe.epoch: unknown key", "'epochs'", "iterations, batch_size"]),
    ("tune.temprature", 1, ["tune.temprature: unknown key", "'temperature'", "allowed: kd_weight"]),
    ("contexts.fractions", [0.1], ["contexts.fractions: unknown key", "'fraction'"]),
    (
        "seeds.trial",
        1,
        ["seeds.trial: unknown key", "'trials'", "allowed: trials, teacher, scores"],
    ),
    ("resources.cpus", 1, ["resources.cpus: unknown key", "'cpu'", "gpu, concurrent"]),
    (
        "tune.kd_weight",
        {"low": 0, "high": 1, "logs": True},
        ["tune.kd_weight.logs: unknown key", "'log'", "allowed: low, high, log"],
    ),
    (
        "contexts.method",
        ["forgeting"],
        ["contexts.method[0]: 'forgeting'", "did you mean 'forgetting'?", "forgetting, el2n"],
    ),
    (
        "contexts.method",
        "zzz",
        ["contexts.method[0]: 'zzz'", "Known: random, forgetting", "file:scores.npy"],
    ),
    ("student", "cnn9", ["student: 'cnn9'", "architecture", "Known: cnn4, cnn8"]),
    ("contexts.teacher", ["cnn4", "vgg"], ["contexts.teacher[1]: 'vgg'", "Known: cnn4, cnn8"]),
    (
        "sampler",
        "tpee",
        [
            "sampler: 'tpee'",
            "did you mean 'tpe'?",
            "Known: curve, tpe, random",
            "package.module:Class",
        ],
    ),
    ("sampler", "optuna.samplers", ["sampler: 'optuna.samplers'", "package.module:Class"]),
    ("dataset", {"name": "digit"}, ["dataset.name: 'digit'", "'digits'", "Known: digits", "ridge"]),
    ("recipe.optimizer", "adam", ["recipe.optimizer: 'adam'", "'sgd'"]),
    (
        "early_stopping.name",
        "hyperband",
        ["early_stopping.name: 'hyperband'", "'asha', 'median' or 'none'"],
    ),
    ("contexts.fraction", [0], ["contexts.fraction[0]: 0:", "greater than 0"]),
    ("contexts.fraction", [0.5, 1.5], ["contexts.fraction[1]: 1.5:", "less than or equal to 1"]),
    ("contexts.fraction", -0.1, ["contexts.fraction[0]: -0.1:", "greater than 0"]),
    ("contexts.fraction", NAN, ["contexts.fraction[0]: nan:", "less than or equal to 1"]),
    ("contexts.fraction", ["half"], ["contexts.fraction[0]: 'half':", "valid number"]),
    ("contexts.fraction", ["0.5"], ["contexts.fraction[0]: '0.5':", "valid number"]),
    ("contexts.fraction", [True], ["contexts.fraction[0]: True:", "valid number"]),
    (
        "contexts.fraction",
        [0.5, 0.001],
        ["contexts.fraction: 0.001 keeps 1 of 1293", "10 classes", "allowed: 0.007734 to 1"],
    ),
    ("contexts.fraction", [], ["contexts.fraction: []", "at least one value"]),
    ("contexts.method", [], ["contexts.method: []", "at least one value"]),
    ("contexts.fraction", [0.5, 0.5], ["contexts.fraction: [0.5, 0.5]", "twice"]),
    ("contexts.fraction", None, ["contexts.fraction: None", "list"]),
    ("contexts.temperature", [0.0], ["contexts.temperature[0]: 0.0:", "greater than 0"]),
    ("contexts.teacher_fraction", 2, ["contexts.teacher_fraction[0]: 2:", "or equal to 1"]),
    ("contexts.method", None, ["contexts.method: missing", "tune.method"]),
    ("contexts.teacher", None, ["contexts.teacher: missing", "tune.teacher"]),
    ("tune.method", ["random"], ["method: stands under contexts and under tune", "one of them"]),
    ("tune.fraction", [0.5], ["tune.fraction: ", "move it to contexts.fraction"]),
    ("tune.kd_weight", {"low": -0.1, "high": 1}, ["tune.kd_weight: -0.1", "[0, 1]"]),
    ("tune.kd_weight", {"low": 0, "high": 1.2}, ["tune.kd_weight: 1.2", "[0, 1]"]),
    (
        "tune.kd_weight",
        {"low": 0.5, "high": 0.5},
        ["low (0.5) must be below high (0.5)", "one value"],
    ),
    ("tune.kd_weight", {"low": 0.7, "high": 0.5}, ["tune.kd_weight: low (0.7) must be below"]),
    ("tune.kd_weight", {"low": 0, "high": 1, "log": True}, ["low (0.0)", "above 0", "logarithmic"]),
    ("tune.kd_weight", {"low": 0.1}, ["tune.kd_weight.high: missing"]),
    ("tune.kd_weight", 0.5, ["tune.kd_weight: 0.5", "mapping of keys"]),
    ("tune.temperature", {"low": 0, "high": 3}, ["tune.temperature: 0.0", "(0, inf)"]),
    ("recipe", {}, ["recipe: ", "exactly one of `epochs` and `iterations`"]),
    ("recipe.iterations", 9, ["recipe: ", "exactly one of `epochs` and `iterations`"]),
    ("recipe.epochs", 0, ["recipe.epochs: 0:", "greater than or equal to 1"]),
    ("recipe.epochs", 2.5, ["recipe.epochs: 2.5:", "integer"]),
    ("recipe.epochs", "nine", ["recipe.epochs: 'nine':", "integer"]),
    ("recipe.lr", "0.1", ["recipe.lr: '0.1':", "number"]),
    ("recipe.lr", NAN, ["recipe.lr: nan:"]),
    ("name", "My Search", ["name: 'My Search':", "lower-case letters, digits and hyphens"]),
    ("name", "../up", ["name: '../up':", "lower-case letters, digits and hyphens"]),
    ("name", 3, ["name: 3:", "string"]),
    ("name", "n" * 101, ["name: 'nnn", "at most 100 characters"]),
    ("contexts", None, ["contexts: None", "mapping of keys"]),
    ("dataset", "digits", ["dataset: 'digits'", "mapping of keys"]),
    ("dataset", {}, ["dataset.name: missing"]),
    ("dataset.label_noise", 1.0, ["dataset.label_noise: 1.0:", "less than 1"]),
    ("dataset.validation", 0.0, ["dataset.validation: 0.0:", "greater than 0"]),
    ("budget.trials_per_context", 2, ["budget.trials_per_context: 2:", "or equal to 5"]),
    ("early_stopping.grace_epochs", 10, ["grace_epochs: 10", "budget", "allowed: 1 to 9"]),
    ("early_stopping.grace_epochs", 0, ["grace_epochs: 0:", "an epoch from 1 on, or auto"]),
    ("early_stopping.grace_epochs", "third", ["grace_epochs: 'third':", "or auto"]),
    ("budget", {"epoch_samples": 0}, ["budget.epoch_samples: 0:", "greater than 0"]),
    ("budget", {"wall_time_s": "2h"}, ["budget.wall_time_s: '2h':", "valid number"]),
    ("budget", {"wall_time": 60}, ["budget.wall_time: unknown key", "did you mean 'wall_time_s'"]),
    ("budget", {"gpu_hours": 2}, ["budget.gpu_hours: 2 is never reached", "resources.gpu is 0"]),
    ("budget", {"money": 2}, ["budget: money needs cost_per_gpu_hour"]),
    ("budget", {"until": {"regret": 0}}, ["budget.until.regret: 0:", "greater than 0"]),
    ("budget", {"until": {}}, ["budget.until.regret: missing"]),
    ("budget", {"until": {"regret": 1, "confidence": 1.0}}, ["until.confidence: 1.0:", "than 1"]),
    ("early_stopping.reduction_factor", 1.0, ["reduction_factor: 1.0:", "greater than 1"]),
    ("seeds.trials", 0, ["seeds.trials: 0:", "or equal to 1"]),
    ("resources.cpu", 0, ["resources.cpu: 0:", "greater than 0"]),
    ("resources.gpu", float("inf"), ["resources.gpu: inf:", "finite"]),
    ("faults.restarts", -1, ["faults.restarts: -1:", "or equal to 0"]),
    ("faults.retries", 1.5, ["faults.retries: 1.5:", "integer"]),
    ("faults.silence_s", 0, ["faults.silence_s: 0:", "greater than 0"]),
    ("faults.silence", 60, ["faults.silence: unknown key", "did you mean 'silence_s'"]),
    ("seed", -1, ["seed: -1:", "or equal to 0"]),
]

RIDGE = {
    "name": "exact",
    "dataset": {"name": "ridge"},
    "student": "linear",
    "recipe": {"epochs": 9},
    "contexts": {"method": "random", "fraction": 0.5, "teacher": "linear"},
}
RIDGE_FAULTS = [
    ("student", "cnn8", ["student: 'cnn8' does not fit dataset 'ridge'", "allowed: linear"]),
    ("contexts.teacher", "cnn8", ["contexts.teacher: 'cnn8'", "'ridge'", "allowed: linear"]),
    ("contexts.method", "el2n", ["contexts.method: 'el2n'", "'ridge'", "allowed: random"]),
    ("recipe", {"iterations": 9}, ["recipe.iterations: ", "'ridge'", "set recipe.epochs"]),
    ("dataset.ridge", -1, ["dataset.ridge: -1:", "greater than 0"]),
    ("dataset.rigde", 1, ["dataset.rigde: unknown key", "'ridge'", "allowed: name, samples"]),
    (
        "dataset.label_noise",
        0.1,
        ["dataset.label_noise: unknown key", "noise, ridge, teacher_ridge, decay"],
    ),
]


def spoil(raw: dict, key: str, value: object) -> dict:
    *sections, last = key.split(".")
    section = raw
    for name in sections:
        section[name] = dict(section.get(name, {}))
        section = section[name]
    section[last] = value
    return raw


def faults_of(call: Callable[[], object]) -> list[str]:
    with pytest.raises(UsageError) as refused:
        call()
    assert refused.value.exit_code == 2
    return str(refused.value).split("\n  ")


@pytest.mark.parametrize(("key", "value", "words"), FAULTS)
def test_a_fault_is_one_line_with_key_value_and_what_is_allowed(raw, key, value, words):
    heading, *lines = faults_of(lambda: parse_spec(spoil(raw, key, value), "my.yaml"))
    assert heading == "my.yaml: 1 fault"
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(("key", "value", "words"), RIDGE_FAULTS)
def test_the_closed_form_problem_refuses_what_it_has_no_form_for(key, value, words):
    heading, *lines = faults_of(lambda: parse_spec(spoil(dict(RIDGE), key, value)))
    assert heading.endswith("1 fault")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("section", ["name", "dataset", "student", "recipe", "contexts"])
def test_a_missing_section_is_named(raw, section):
    del raw[section]
    assert faults_of(lambda: parse_spec(raw)) == ["search file: 1 fault", f"{section}: missing"]


def test_all_faults_of_a_file_are_listed_together_each_once(raw):
    spoil(raw, "student", "cnn9")
    spoil(raw, "recipe.lr", -1)
    spoil(raw, "contexts.fraction", [2, 0.5, 0])
    spoil(raw, "budget", {"trials_per_context": 1})
    spoil(raw, "typo", 3)
    heading, *lines = faults_of(lambda: parse_spec(raw))
    assert heading == "search file: 6 faults"
    keys = [line.partition(":")[0] for line in lines]
    assert sorted(keys) == [
        "budget.trials_per_context",
        "contexts.fraction[0]",
        "contexts.fraction[2]",
        "recipe.lr",
        "student",
        "typo",
    ]


def test_faults_between_sound_parts_are_listed_beside_faults_within_others(raw):
    spoil(raw, "contexts.fraction", [0.5, 0.001])
    spoil(raw, "contexts.teacher", "linear")
    spoil(raw, "tune.method", "random")
    spoil(raw, "early_stopping.grace_epochs", 12)
    spoil(raw, "sampler", "bayes")
    heading, *lines = faults_of(lambda: parse_spec(raw))
    assert heading == "search file: 5 faults"
    keys = [line.partition(":")[0] for line in lines]
    assert sorted(keys) == [
        "contexts.fraction",
        "contexts.teacher",
        "early_stopping.grace_epochs",
        "method",
        "sampler",
    ]


@pytest.mark.parametrize(
    ("sampler", "most"), [("grid", 11 * 2), ("grid-crn", 5 * 2), ("one-epoch-top-k", 14 * 2)]
)
def test_a_fixed_design_that_would_repeat_itself_says_how_many_seeds_it_needs(raw, sampler, most):
    raw["sampler"] = sampler
    parse_spec(spoil(raw, "budget.trials_per_context", most))
    spoil(raw, "budget.trials_per_context", most + 1)
    _, line = faults_of(lambda: parse_spec(raw))
    assert line.strip().startswith(f"seeds.trials: 2: sampler {sampler!r}")
    assert line.endswith("allowed: 3 or more")
    # Every block of the design has the lists in another combination.
    parse_spec(spoil(spoil(raw, "contexts.teacher", None), "tune.teacher", ["cnn4", "cnn8"]))


@pytest.mark.parametrize("raw", [None, [1, 2], "text", 3])
def test_a_file_that_is_no_mapping_is_refused(raw):
    (line,) = faults_of(lambda: parse_spec(raw, "my.yaml"))
    assert line.startswith("my.yaml: a mapping of keys is needed, found ")


FILES = {
    "invalid YAML": (b"name: x\nrecipe: {epochs: 3\n", ["not valid YAML in line 3"]),
    "a tab": (b"name: x\n\tstudent: cnn8\n", ["not valid YAML in line 2"]),
    "a key twice": (b"name: x\nstudent: cnn8\nname: y\n", ["in line 3", "duplicate key"]),
    "not text": (b"name: caf\xe9\n", ["UTF-8"]),
    "control characters": (b"name: x\x00y\n", ["not valid YAML"]),
    "an unknown tag": (b"name: !!python/object:os.system x\n", ["not valid YAML in line 1"]),
    "two documents": (b"name: x\n---\nname: y\n", ["not valid YAML"]),
    "nothing": (b"", ["a mapping of keys is needed"]),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_cannot_be_read_is_one_line_that_says_where(tmp_path, kind):
    content, words = FILES[kind]
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    (line,) = faults_of(lambda: load_spec(path))
    assert "\n" not in line
    for word in [str(path), *words]:
        assert word in line


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    (line,) = faults_of(lambda: load_spec(tmp_path / "none.yaml"))
    assert str(tmp_path / "none.yaml") in line
    assert "No such file" in line
    (line,) = faults_of(lambda: load_spec(tmp_path))
    assert "directory" in line


def test_numbers_are_read_as_a_person_writes_them(tmp_path, raw):
    path = tmp_path / "my.yaml"
    raw["recipe"]["weight_decay"] = "WD"
    path.write_text(json.dumps(raw).replace('"WD"', "5e-4"), encoding="utf-8")
    assert load_spec(path).recipe.weight_decay == 0.0005


def test_a_single_value_stands_for_a_list_of_one(raw):
    raw["contexts"] = {"method": "random", "fraction": 1, "teacher": "cnn4"}
    contexts = parse_spec(raw).contexts
    assert (contexts.method, contexts.fraction, contexts.teacher) == (["random"], [1.0], ["cnn4"])


def test_a_name_given_beside_the_file_replaces_its_own_and_is_checked_too(raw):
    assert parse_spec(raw, name="other").name == "other"
    lines = faults_of(lambda: parse_spec(raw, name="Not One"))
    assert "name: 'Not One'" in lines[1]


def test_a_search_written_out_and_read_again_is_the_same(raw):
    spec = parse_spec(spoil(raw, "tune.temperature", {"low": 1, "high": 10, "log": True}))
    written = json.loads(json.dumps(spec.model_dump(mode="json", exclude_none=True)))
    assert parse_spec(written) == spec
    assert parse_spec(written).context_list == spec.context_list


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_the_smoke_form_of_every_bundled_search_is_valid_and_small(path):
    if re.search(r"name: (imagefolder|parquet)", path.read_text()):  # their files are the user's
        with pytest.raises(UsageError, match=r"1 fault\n  dataset.root: "):
            load_spec(path)
        return
    spec = load_spec(path)
    small = shrink(spec)
    assert small.name == f"{spec.name}-smoke"
    assert len(small.context_list) <= min(4, len(spec.context_list))
    assert small.trials <= 32
    assert max(small.total_epochs(c) for c in small.context_list) <= 30
    assert small.tuned == spec.tuned
    assert small.early_stopping.name == spec.early_stopping.name


@pytest.mark.parametrize("budget", [{"epochs": 200}, {"iterations": 500}])
def test_the_smoke_form_survives_a_long_grace_and_many_fractions(raw, budget):
    fractions = [0.01 * k for k in range(1, 100)]
    spoil(raw, "recipe", {**budget, "batch_size": 8})
    spoil(raw, "contexts.fraction", fractions)
    spoil(raw, "early_stopping", {"grace_epochs": 4})
    small = shrink(parse_spec(raw))
    assert small.contexts.fraction == [fractions[49], fractions[98]]
    assert (small.recipe.epochs, small.recipe.iterations) == (3, None)
    assert small.trials == 16


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_the_editors_schema_accepts_every_bundled_search(path):
    from ruamel.yaml import YAML

    schema = json_schema()
    raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(raw, schema)


@pytest.mark.parametrize(
    ("key", "value"), [("recipes", 1), ("contexts.fractions", [0.1]), ("recipe.epochs", "many")]
)
def test_the_editors_schema_refuses_unknown_keys_and_wrong_types(raw, key, value):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoil(raw, key, value), json_schema())
