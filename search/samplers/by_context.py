"""Optuna, one study per context: contexts and seeds take turns, a sampler chooses the values."""

import optuna

from search.designer import Known, Proposal, next_slot
from search.space import SearchSpec
from search.studies import Studies


class ByContext:
    """Starts every context with the same design and then asks its study.

    Args:
        spec: the search.
        studies: Optuna's side of it.
    """

    def __init__(self, spec: SearchSpec, studies: Studies) -> None:
        self._spec = spec
        self._studies = studies
        self._asked: optuna.Trial | None = None

    def propose(self, known: Known) -> Proposal | None:
        """The starting design first; then contexts and seeds take turns."""
        self._asked = None
        slot = next_slot(self._spec, known)
        if slot is None:
            return None
        if slot.start_values is not None:
            return Proposal(slot.context, slot.start_values, slot.seed, start_design=True)
        trials = known[slot.context.key]
        self._asked = self._studies.ask(slot.context, trials, slot.index)
        return Proposal(slot.context, self._asked.params, slot.seed)

    def accepted(self, number: int) -> None:
        """Let Optuna know its own trial again."""
        if self._asked is not None:
            self._studies.accept(self._asked, number)
