"""Whether a recorded search may go on as another: more of the same, nothing that differs."""

from collections.abc import Iterator

from search.budget import LIMITS, Until
from search.errors import UsageError
from search.space import SearchSpec

# What decides how trials score, or which of them are compared.
_FIXED = ("dataset", "student", "recipe", "tune", "early_stopping", "pruning", "seed")


def check_extension(recorded: SearchSpec, extended: SearchSpec) -> None:
    """Refuse what would make new trials incomparable to those that are recorded.

    More contexts, seeds and budget may be asked for; resources, faults, the sampler and how often
    checkpoints are written may change (to or from `ray-stock`, the sampler may not). A criterion
    of the budget may grow, be dropped or be added; one that is added may be reached at once, which
    takes nothing away.

    Raises:
        UsageError: with every fault, each with key, value and what is allowed.
    """
    faults = []
    if recorded.name != extended.name:
        faults.append(f"name: {extended.name!r} is another search; allowed: {recorded.name!r}")
    faults += [
        f"{key}: {_short(new)} differs from the recorded {_short(old)}; the trials would not "
        "be comparable"
        for key in _FIXED
        if (old := getattr(recorded, key)) != (new := getattr(extended, key))
    ]
    faults += [
        f"seeds.{key}: {new} differs from the recorded {old}; the trials would not be comparable"
        for key in ("teacher", "scores")
        if (old := getattr(recorded.seeds, key)) != (new := getattr(extended.seeds, key))
    ]
    if recorded.pooled != extended.pooled:
        faults.append(
            f"sampler: {extended.sampler!r} after {recorded.sampler!r}; 'ray-stock' alone compares "
            "trials of all contexts with one another"
        )
    if (recorded.dataset, recorded.student) == (extended.dataset, extended.student):
        kept = {context.key for context in extended.context_list}
        faults += [
            f"contexts: {context.label} is missing; contexts may be added, not taken away"
            for context in recorded.context_list
            if context.key not in kept
        ]
    # Whole paths and SHA-256 sums: what was brought must still be what it was.
    for key in ("teachers", "score_files"):
        before, after = getattr(recorded, key), getattr(extended, key)
        faults += [
            f"{key}.{name}: {_short(after.get(name))} differs from the recorded {_short(old)}; "
            "the trials would not be comparable"
            for name, old in before.items()
            if after.get(name) != old
        ]
    if (recorded.soft_labels == "fixed") != (extended.soft_labels == "fixed"):
        faults.append(
            f"soft_labels: {extended.soft_labels!r} differs from the recorded "
            f"{recorded.soft_labels!r}; the trials would not be comparable"
        )
    limits = [("seeds.trials", recorded.seeds.trials, extended.seeds.trials)]
    limits += [
        (f"budget.{key}", getattr(recorded.budget, key), getattr(extended.budget, key))
        for key in LIMITS
    ]
    faults += [
        f"{key}: {new:g} is less than the recorded {old:g}; allowed: {old:g} or more"
        for key, old, new in limits
        if old is not None and new is not None and new < old
    ]
    faults += _looser(recorded.budget.until, extended.budget.until)
    if faults:
        count = f"{len(faults)} faults" if len(faults) > 1 else "1 fault"
        raise UsageError(
            "\n  ".join([f"{recorded.name} cannot be extended like this: {count}", *faults])
        )


def _looser(recorded: Until | None, extended: Until | None) -> Iterator[str]:
    """An answer that was asked for may be asked for more exactly, not less."""
    if recorded is None or extended is None:
        return
    if extended.regret > recorded.regret:
        yield (
            f"budget.until.regret: {extended.regret:g} is more than the recorded "
            f"{recorded.regret:g}; allowed: {recorded.regret:g} or less"
        )
    if extended.confidence < recorded.confidence:
        yield (
            f"budget.until.confidence: {extended.confidence:g} is less than the recorded "
            f"{recorded.confidence:g}; allowed: {recorded.confidence:g} or more"
        )


def _short(value: object) -> str:
    dump = getattr(value, "model_dump", None)
    return str(value if dump is None else dump(mode="json", exclude_none=True))
