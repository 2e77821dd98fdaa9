"""Tune's searcher: the designer and Optuna on one side, Tune on the other."""

from collections import deque
from typing import Any, cast

from ray.tune.search import Searcher

from search.designer import next_slot
from search.journal import EventKind
from search.ledger import Ledger, TrialState
from search.space import SearchSpec
from search.studies import Studies
from search.unpickled import Unpickled


class CurveSearcher(Unpickled, Searcher):
    """Proposes trials; what becomes of them it reads from the ledger.

    Tune's notices of results are not needed: a result that stops a trial never reaches
    a searcher, and the record has them all.
    """

    def __init__(self, spec: SearchSpec, ledger: Ledger, studies: Studies) -> None:
        super().__init__()
        self._spec = spec
        self._ledger = ledger
        self._studies = studies
        self._contexts = {context.key: context for context in spec.context_list}
        self._again = deque(ledger.unfinished())
        self.numbers: dict[str, int] = {}
        """Number of each of Tune's trial ids."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's configuration, or Tune's word for the end.

        Trials that an earlier life of the search left unfinished come first.
        """
        trial = self._again.popleft() if self._again else self._propose()
        if trial is None:
            return cast(None, Searcher.FINISHED)  # a string, whatever Ray's annotation says
        self.numbers[trial_id] = trial.number
        context = self._contexts[trial.context]
        config = self._spec.trial_config(context, trial.values, trial.seed)
        return {
            "number": trial.number,
            "trial": config.model_dump(mode="json"),
            "rungs": self._spec.rungs(context),
        }

    def _propose(self) -> TrialState | None:
        known = self._ledger.by_context
        slot = next_slot(self._spec, known)
        if slot is None:
            return None
        number = len(self._ledger.trials)
        asked = None
        values = slot.start_values
        if values is None:
            asked = self._studies.ask(slot.context, known[slot.context.key], slot.index)
            values = asked.params
        self._ledger.record(
            EventKind.PROPOSED,
            number,
            context=slot.context.key,
            values=values,
            seed=slot.seed,
            start_design=asked is None,
        )
        if asked is not None:
            self._studies.accept(asked, number)
        return self._ledger.trials[number]

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: the record says how a trial ended."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: everything derives from the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
