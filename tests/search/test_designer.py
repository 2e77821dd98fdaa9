import copy

import pytest

from search.designer import next_slot, start_trials, start_values
from search.ledger import TrialState


@pytest.fixture
def spec(make_spec):
    contexts = {"method": ["random", "el2n"], "fraction": [0.1, 0.9], "teacher": "cnn4"}
    return make_spec(contexts=contexts, seeds={"trials": 2}, budget={"trials_per_context": 11})


def fill(spec, upto=10_000, known=None):
    """Slots in order, each filled at once with a trial, after those that are known."""
    known, slots = {} if known is None else known, []
    while len(slots) < upto and (slot := next_slot(spec, known)) is not None:
        slots.append(slot)
        values = slot.start_values or {"kd_weight": 0.4}
        known.setdefault(slot.context.key, []).append(
            TrialState(len(slots), slot.context.key, values, slot.seed, bool(slot.start_values))
        )
    return slots, known


def start(slots):
    """Seed and KD weight of each slot; None for the weight that a sampler chooses."""
    return [(s.seed, s.start_values and s.start_values["kd_weight"]) for s in slots]


def test_every_context_starts_with_kd_weights_0_half_and_1_under_one_seed(spec):
    slots, _ = fill(spec)
    assert start_trials(spec) == 6
    for context in spec.context_list:
        own = [slot for slot in slots if slot.context == context]
        start = [(s.seed, s.start_values["kd_weight"]) for s in own[:6]]
        assert start == [(0, 0.0), (0, 0.5), (0, 1.0), (1, 0.0), (1, 0.5), (1, 1.0)]
        assert all(slot.start_values is None for slot in own[6:])


def test_contexts_take_turns(spec):
    slots, _ = fill(spec)
    keys = [context.key for context in spec.context_list]
    for turn in range(11):
        assert [slot.context.key for slot in slots[4 * turn : 4 * turn + 4]] == keys
        assert {slot.index for slot in slots[4 * turn : 4 * turn + 4]} == {turn}


def test_seeds_take_turns_after_the_start(spec):
    slots, _ = fill(spec)
    own = [s.seed for s in slots if s.context == spec.context_list[0]]
    assert own[6:] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("trials", range(5, 30))
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_the_budget_is_met_exactly_and_the_start_takes_three_quarters_at_most(
    make_spec, trials, seeds
):
    spec = make_spec(seeds={"trials": seeds}, budget={"trials_per_context": trials})
    _, known = fill(spec)
    assert [len(known[c.key]) for c in spec.context_list] == [trials, trials]
    assert next_slot(spec, known) is None
    assert start_trials(spec) <= max(3, 0.75 * trials)
    assert start_trials(spec) <= 3 * seeds


def test_the_same_knowledge_gives_the_same_slot_and_stays_as_it_is(spec):
    _, known = fill(spec, upto=17)
    before = copy.deepcopy(known)
    assert next_slot(spec, known) == next_slot(spec, copy.deepcopy(known))
    assert known == before


def test_a_context_that_lags_behind_is_served_first(spec):
    _, known = fill(spec, upto=16)
    late = spec.context_list[2]
    known[late.key] = known[late.key][:1]
    assert (next_slot(spec, known).context, next_slot(spec, known).index) == (late, 1)


def test_all_but_the_kd_weight_start_in_the_middle(make_spec):
    spec = make_spec(
        contexts={"fraction": 0.5, "teacher": "cnn4"},
        tune={
            "kd_weight": {"low": 0.2, "high": 0.6},
            "temperature": {"low": 1, "high": 16, "log": True},
            "method": ["el2n", "random"],
        },
    )
    middle = {"temperature": pytest.approx(4.0), "method": "el2n"}
    starts = [start_values(spec, point) for point in range(3)]
    # 0 is the reference of every gain, whatever the range.
    assert [start.pop("kd_weight") for start in starts] == [0.0, pytest.approx(0.4), 0.6]
    assert starts == [middle, middle, middle]
    methods = [start_values(spec, 0, block)["method"] for block in range(3)]
    assert methods == ["el2n", "random", "el2n"], "lists take turns over the seeds"
    linear = make_spec(tune={"temperature": {"low": 1, "high": 16}})
    assert start_values(linear, 0)["temperature"] == 8.5


# Extended


@pytest.mark.parametrize("trials", [5, 8, 12, 25])
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_without_an_extension_a_slot_follows_from_its_index(make_spec, trials, seeds):
    """As in the first version, whose searches can be gone on with."""
    spec = make_spec(seeds={"trials": seeds}, budget={"trials_per_context": trials})
    slots, _ = fill(spec)
    used = min(seeds, max(1, trials // 4))
    for turn, slot in enumerate(slots):
        index = turn // len(spec.context_list)
        if index < 3 * used:
            expected = (index // 3, (0.0, 0.5, 1.0)[index % 3])
        else:
            expected = ((index - 3 * used) % used, None)
        assert slot.context == spec.context_list[turn % len(spec.context_list)]
        assert [slot.index, *start([slot])] == [index, expected]


def test_seeds_that_are_added_get_a_start_of_their_own(make_spec):
    one = {"contexts": {"method": "random", "fraction": 0.5, "teacher": "cnn4"}}
    before = make_spec(seeds={"trials": 1}, budget={"trials_per_context": 6}, **one)
    after = make_spec(seeds={"trials": 3}, budget={"trials_per_context": 18}, **one)
    old, known = fill(before)
    assert start(old) == [(0, 0.0), (0, 0.5), (0, 1.0), (0, None), (0, None), (0, None)]
    new, _ = fill(after, known=known)
    assert start(new[:6]) == [(1, 0.0), (1, 0.5), (1, 1.0), (2, 0.0), (2, 0.5), (2, 1.0)]
    assert [slot.index for slot in new] == list(range(6, 18))
    assert start(new[6:]) == [(i % 3, None) for i in range(3, 9)], "and then take turns"


def test_a_start_that_was_cut_off_is_completed_first(make_spec):
    one = {"contexts": {"method": "random", "fraction": 0.5, "teacher": "cnn4"}}
    before = make_spec(seeds={"trials": 2}, budget={"trials_per_context": 8}, **one)
    _, known = fill(before, upto=2)
    after = make_spec(seeds={"trials": 3}, budget={"trials_per_context": 12}, **one)
    new, _ = fill(after, known=known)
    assert start(new[:4]) == [(0, 1.0), (1, 0.0), (1, 0.5), (1, 1.0)]


def test_a_larger_budget_leaves_what_was_proposed_and_goes_on_after_it(spec, make_spec):
    _, known = fill(spec)
    before = copy.deepcopy(known)
    sections = {"contexts": spec.contexts.model_dump(exclude_none=True), "seeds": {"trials": 2}}
    new, _ = fill(make_spec(budget={"trials_per_context": 14}, **sections), known=known)
    assert all(known[key][:11] == trials for key, trials in before.items())
    assert [slot.index for slot in new] == [i for i in (11, 12, 13) for _ in spec.context_list]
    assert all(slot.start_values is None for slot in new)
    own = [slot.seed for slot in new if slot.context == spec.context_list[0]]
    assert own == [1, 0, 1], "the seeds go on taking turns: the last was 0"


def test_contexts_that_are_added_catch_up_with_a_start_of_their_own(spec, make_spec):
    _, known = fill(spec)
    before = copy.deepcopy(known)
    more = make_spec(
        contexts={"method": ["random", "el2n"], "fraction": [0.1, 0.5, 0.9], "teacher": "cnn4"},
        seeds={"trials": 2},
        budget={"trials_per_context": 11},
    )
    new, _ = fill(more, known=known)
    assert {slot.context.values["fraction"] for slot in new} == {0.5}
    assert len(new) == 22
    own = [slot for slot in new if slot.context.values["method"] == "el2n"]
    fresh = [slot for slot in fill(spec)[0] if slot.context == spec.context_list[0]]
    assert start(own) == start(fresh)
    assert {key: known[key] for key in before} == before
