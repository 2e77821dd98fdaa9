"""Tune's searcher: the designer on one side, Tune on the other."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, cast

from ray.tune.search import Searcher

from search.designer import Designer, Known, Later, Proposal
from search.early import measured_grace
from search.errors import KdcurveError
from search.journal import EventKind
from search.ledger import Ledger, TrialState
from search.recovery import room
from search.sections import AUTO
from search.space import SearchSpec
from search.unpickled import Unpickled

PATIENCE_S = 0.02
"""How long Tune's loop waits for a proposal while trials run; it asks again after that."""


class CurveSearcher(Unpickled, Searcher):
    """Proposes trials; what becomes of them it reads from the ledger.

    Tune's notices of results are not needed: a result that stops a trial never reaches
    a searcher, and the record has them all. The designer thinks in a thread of its own, so that
    Tune's loop goes on meanwhile.

    Args:
        spec: the search.
        ledger: its record.
        designer: chooses the trials.
        patience_s: how long to wait for a proposal while trials run; None: until it is there.
        machines: tells the resources of each machine, for a trial that needs more room.
    """

    def __init__(
        self,
        spec: SearchSpec,
        ledger: Ledger,
        designer: Designer,
        patience_s: float | None = PATIENCE_S,
        machines: Callable[[], Sequence[Mapping[str, float]]] = lambda: (),
    ) -> None:
        super().__init__()
        self._patience_s = patience_s
        self._machines = machines
        self._spec = spec
        self._ledger = ledger
        self._designer = designer
        self._contexts = {context.key: context for context in spec.context_list}
        self._again = deque(ledger.unfinished())
        self._thinker = ThreadPoolExecutor(1, thread_name_prefix="designer")
        self._thought: Future[Proposal | Later | None] | None = None
        self._asked_at = -1
        """How many trials had ended when the designer was asked last."""
        self._put_off = False
        """Whether it then answered that another has to end first."""
        self._exhausted = False
        """Whether it has nothing more to propose."""
        self.numbers: dict[str, int] = {}
        """Number of each of Tune's trial ids."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's configuration, None for 'not yet', or Tune's word for the end.

        Trials that an earlier life of the search left unfinished come first, and those that
        failed and are to be taken up again. Since any that runs may be the next of these, the
        end has not come before all have ended.
        """
        if self._again:
            trial = self._again.popleft()
        elif self._exhausted:
            return self._nothing_more()
        else:
            if not self._ready():
                return None
            proposal = self._take()
            if isinstance(proposal, Later):
                return None
            if proposal is None:
                self._exhausted = True
                return self._nothing_more()
            if not proposal.start_design:
                self._measure_grace()
            trial = self._record(proposal)
        self.numbers[trial_id] = trial.number
        context = self._contexts[trial.context]
        config = self._spec.trial_config(context, trial.values, trial.seed)
        return {
            "number": trial.number,
            "trial": config.model_dump(mode="json"),
            "rungs": self._rungs(trial),
            "resources": room(
                self._spec.resources, trial.retries, self._machines() if trial.retries else ()
            ),
        }

    def again(self, number: int) -> None:
        """Take up a trial that failed once more, before anything new."""
        self._again.append(self._ledger.trials[number])

    def _nothing_more(self) -> dict[str, Any] | None:
        if any(trial.outcome is None for trial in reversed(self._ledger.trials.values())):
            return None
        return cast(None, Searcher.FINISHED)  # a string, whatever Ray's annotation says

    def _rungs(self, trial: TrialState) -> tuple[int, ...]:
        """Epochs at which Tune has to hear of a trial, since it may end there."""
        if trial.until_epoch is not None:
            return (trial.until_epoch,)
        return self._spec.rungs(self._contexts[trial.context], self._ledger.grace_share)

    def _ready(self) -> bool:
        """Whether there is a proposal; with nothing else to do, wait for it."""
        if self._thought is None:
            ended = self._ended()
            if self._put_off and ended == self._asked_at:
                return False
            self._asked_at = ended
            known = snapshot(self._ledger.by_context)
            if self._patience_s is None:
                self._thought = _thought_at_once(self._designer, known)
            else:
                self._thought = self._thinker.submit(self._designer.propose, known)
        busy = any(trial.running for trial in reversed(self._ledger.trials.values()))
        done, _ = wait([self._thought], timeout=self._patience_s if busy else None)
        return bool(done)

    def _ended(self) -> int:
        return sum(trial.outcome is not None for trial in self._ledger.trials.values())

    def _take(self) -> Proposal | Later | None:
        assert self._thought is not None  # noqa: S101  (`_ready` saw to it)
        thought, self._thought = self._thought, None
        try:
            proposal = thought.result()
        except KdcurveError:
            raise  # it says itself what is wrong
        except Exception as error:
            raise KdcurveError(
                f"sampler {self._spec.sampler!r} failed to propose trial "
                f"{len(self._ledger.trials)}: {type(error).__name__}: {error}; nothing recorded is "
                "lost, and kdcurve resume NAME --file F goes on, with another sampler too"
            ) from error
        self._put_off = isinstance(proposal, Later)
        if self._put_off and self._asked_at == len(self._ledger.trials):
            raise KdcurveError(
                f"sampler {self._spec.sampler!r} waits for a trial to end, and none is under way"
            )
        return proposal

    def _measure_grace(self) -> None:
        """See where the first rung stands, once that can be measured and is to be."""
        if self._spec.early_stopping.grace_epochs != AUTO or self._ledger.grace is not None:
            return
        if (grace := measured_grace(self._spec, self._ledger.by_context)) is not None:
            self._ledger.record(EventKind.GRACE, None, **grace)

    def _record(self, proposal: Proposal) -> TrialState:
        number = len(self._ledger.trials)
        self._ledger.record(
            EventKind.PROPOSED,
            number,
            context=proposal.context.key,
            values=dict(proposal.values),
            seed=proposal.seed,
            start_design=proposal.start_design,
            **({} if proposal.until_epoch is None else {"until_epoch": proposal.until_epoch}),
        )
        self._designer.accepted(number)
        return self._ledger.trials[number]

    def close(self) -> None:
        """Let the designer come to its end; nothing is proposed any more."""
        self._thinker.shutdown(cancel_futures=True)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: the record says how a trial ended."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: everything derives from the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


def _thought_at_once(designer: Designer, known: Known) -> Future[Proposal | Later | None]:
    """What the designer says, without the change of threads, which takes longer than many do."""
    thought: Future[Proposal | Later | None] = Future()
    try:
        thought.set_result(designer.propose(known))
    except Exception as error:  # noqa: BLE001  (raised where the thought is taken)
        thought.set_exception(error)
    return thought


def snapshot(known: Known) -> Known:
    """What is known at this moment; only trials that go on are copied, the rest is final."""
    return {
        key: [
            trial
            if trial.outcome is not None
            else replace(trial, scores=dict(trial.scores), rungs=dict(trial.rungs))
            for trial in trials
        ]
        for key, trials in known.items()
    }
