"""The curve sampler: one surface over all contexts says which trial teaches most for its cost.

Every context starts with KD weights 0, ½ and 1 under one seed, or up to three where trials cost
less than half of the mean. After that a Gaussian process over
all contexts (`analysis.surface`) is fitted to the complete trials, those under way are counted as
if each had returned what is expected, and the trial with the largest knowledge gradient per
unit of compute is proposed: how much better, by its result, the settings recommended in
all contexts are expected to become. A trial of a large fraction has to teach more, since it costs
more; a trial under a seed that ran before shares that seed's luck, one under a new seed averages
over it. In a long search a surface takes seconds and one more trial hardly changes it: it then
chooses several trials, those of a quarter of the contexts at most, where they teach most.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.acquisition import knowledge_gradient
from analysis.kernel import prior
from analysis.settings import Ints, Observations, evenly
from analysis.signal import NLL, choose_signal, heeding, scores_of
from analysis.surface import STEPS, Hyperparameters, condition, learn, unit_of
from search.designer import START_POINTS, Known, Proposal, start_values
from search.ledger import TrialState
from search.plan import trial_samples
from search.samplers.coding import Coding, complete, likelihoods
from search.space import Context, SearchSpec
from trainables.seeds import derive

START_SEEDS = 3
"""Seeds of the starting design at most, where a trial costs a small part of the mean: the luck of
one seed is largest at small fractions."""
FIRST_FIT = 9
"""Complete trials from which on hyperparameters are learnt; half of the starting design, if that is
more."""
REFIT_GROWTH = 1.25
"""They are learnt anew whenever there are so many times the complete trials."""
REFIT_STEPS = 15
FLOOR = 0.25
"""No context gets fewer trials after the start than this part of the mean."""
SEEDS_AGAIN = 4
"""Seeds of a context, the newest, under which another trial is considered."""
AT_ONCE = 32
"""Contexts whose trials are compared by one surface in a search with many, or `LEFT` times as many
as it chooses."""
BATCH = 100
"""A surface chooses one trial for every so many that were proposed before, at least one."""
LEFT = 4
"""It chooses trials of at most one in so many contexts."""
MOST = 32
"""Trials that it chooses at most."""
MOST_OBSERVED = 2000
"""Complete trials that a surface is conditioned on at most: memory grows with their square, time
with their cube."""


class Curve:
    """Proposes by the knowledge gradient per unit of compute.

    A proposal depends on what is known and on nothing else: the hyperparameters are those of the
    trials that ended first, their number on a fixed ladder, each step of it starting from the one
    before. Where several trials run at a time, a batch that is begun does not heed their results; a
    search that is taken up again in the middle of one does.

    Args:
        spec: the search.
    """

    def __init__(self, spec: SearchSpec) -> None:
        self._spec = spec
        self._coding = Coding(spec)
        self._costs = np.array([trial_samples(spec, c) for c in spec.context_list], np.float64)
        cheaper = self._costs.mean() / self._costs
        seeds = min(START_SEEDS, spec.seeds.trials)
        blocks = np.clip((cheaper / 2).astype(int), 1, seeds)
        self._start_trials = {
            c.key: START_POINTS * int(b) for c, b in zip(spec.context_list, blocks, strict=True)
        }
        self._first_fit = max(FIRST_FIT, sum(self._start_trials.values()) // 2)
        self._ladder: dict[int, tuple[Hyperparameters, bool]] = {}
        self._begun = max(2 * BATCH, sum(self._start_trials.values()))
        """Number of trials at which the newest batch of several began, or the first will."""
        self._batch: tuple[int, list[Proposal]] = (-1, [])
        """Number of trials at which a batch began, and what is in it."""

    def propose(self, known: Known) -> Proposal | None:
        """The starting design, then what teaches most."""
        every = [trial for trials in known.values() for trial in trials]
        if self._spec.trials is not None and len(every) >= self._spec.trials:
            return None
        return self._start(known) or self._next(known, len(every))

    def accepted(self, number: int) -> None:
        """Nothing to do: the next proposal sees it among what is known."""

    def _start(self, known: Known) -> Proposal | None:
        """KD weights 0, ½ and 1 in every context, where they are cheap under further seeds too."""
        started = {
            context.key: sum(trial.start_design for trial in known.get(context.key, ()))
            for context in self._spec.context_list
        }
        owed = [c for c in self._spec.context_list if started[c.key] < self._start_trials[c.key]]
        if not owed:
            return None
        context = min(owed, key=lambda each: started[each.key])
        block, point = divmod(started[context.key], START_POINTS)
        return Proposal(context, start_values(self._spec, point, block), block, start_design=True)

    def _next(self, known: Known, number: int) -> Proposal | None:
        """What the batch has for the first of its contexts that got no trial since it began."""
        begun = self._batch_of(known, number)
        if self._batch[0] != begun:
            self._batch = begun, self._best(_first(known, begun))
        since = {key for key, trials in known.items() if trials and trials[-1].number >= begun}
        left = (each for each in self._batch[1] if each.context.key not in since)
        # A batch may hold fewer than its size: of some contexts every trial was run.
        return next(left, None) or next(iter(self._best(known)), None)

    def _batch_of(self, known: Known, number: int) -> int:
        """Number of trials at which the batch began that a trial belongs to."""
        if number < self._begun:
            return number
        while number >= (end := self._begun + self._size(_first(known, self._begun))):
            self._begun = end
        return self._begun

    def _size(self, known: Known) -> int:
        """Trials that are chosen together, no two of them of the same context."""
        return max(1, min(_wanted(known), len(self._in_question(known)) // LEFT))

    def _best(self, known: Known) -> list[Proposal]:
        """The trials with the largest knowledge gradient per unit of compute, the best first."""
        contexts = self._in_question(known)
        grid = self._coding.grid(contexts)
        candidates, rows = self._candidates(known, contexts)
        ended = complete([trial for trials in known.values() for trial in trials])
        if not candidates:
            return []
        if not ended:
            return [self._blind(candidates, known)]
        learnt, finer = self._learnt(ended)
        observed = self._observed(ended, finer)
        near = _near(observed, grid.context)
        surface = condition(near, learnt or prior(), unit_of(observed))
        waiting = [t for trials in known.values() for t in trials if t.outcome is None]
        if waiting:
            surface = surface.with_pending(*self._coding.pending(waiting))
        at, seeds = grid.take(rows), np.array([each.seed for each in candidates])
        worth = knowledge_gradient(surface, at, seeds, grid, self._costs[at.context])
        best: dict[str, Proposal] = {}
        for i in np.argsort(-worth, kind="stable"):
            best.setdefault(candidates[i].context.key, candidates[i])
        return list(best.values())[: self._size(known)]

    def _blind(self, candidates: Sequence[Proposal], known: Known) -> Proposal:
        """Any, while workers are free and nothing has ended yet."""
        number = sum(map(len, known.values()))
        return candidates[derive(self._spec.seed, "blind", number) % len(candidates)]

    def _learnt(self, ended: Sequence[TrialState]) -> tuple[Hyperparameters | None, bool]:
        """What the newest rung of a ladder of numbers of trials taught; nothing below the first.

        That is hyperparameters, and whether the likelihood agrees with the score.
        """
        learnt, finer, rung = None, False, self._first_fit
        while rung <= len(ended):
            if rung not in self._ladder:
                first = ended[:rung]
                scores = scores_of(self._coding.observed(first))
                finer = choose_signal(scores, likelihoods(first)).name == NLL
                steps = STEPS if learnt is None else REFIT_STEPS
                learnt = learn(self._observed(first, finer), learnt, steps)
                self._ladder[rung] = learnt, finer
            learnt, finer = self._ladder[rung]
            rung = math.ceil(rung * REFIT_GROWTH)
        return learnt, finer

    def _observed(self, ended: Sequence[TrialState], finer: bool) -> Observations:
        """What these trials scored, or what their likelihoods stand for."""
        observed = self._coding.observed(ended)
        return heeding(observed, likelihoods(ended)) if finer else observed

    def _in_question(self, known: Known) -> list[Context]:
        """Contexts to choose from: all, those that lag behind, or of many the next few."""
        count = {c.key: len(known.get(c.key, ())) for c in self._spec.context_list}
        adaptive = [count[key] - self._start_trials[key] for key in count]
        floor = math.floor(FLOOR * sum(adaptive) / len(adaptive))
        behind = [
            context
            for context, further in zip(self._spec.context_list, adaptive, strict=True)
            if further < floor
        ]
        most = max(AT_ONCE, LEFT * _wanted(known))
        return sorted(behind or self._spec.context_list, key=lambda c: count[c.key])[:most]

    def _candidates(
        self, known: Known, contexts: Sequence[Context]
    ) -> tuple[list[Proposal], list[int]]:
        """Every choice under the newest seeds of its context and under a new one, with its row.

        Left out is what was proposed before: on one machine it would return the same again.
        """
        choices = self._coding.choices
        proposals, rows = [], []
        for i, context in enumerate(contexts):
            trials = known.get(context.key, ())
            tried = {(trial.seed, _identity(trial.values)) for trial in trials}
            used = list(dict.fromkeys(trial.seed for trial in reversed(trials)))
            fresh = [seed for seed in range(self._spec.seeds.trials) if seed not in used]
            for seed in (*used[:SEEDS_AGAIN], *fresh[:1]):
                for j, choice in enumerate(choices):
                    if (seed, _identity(choice)) not in tried:
                        proposals.append(Proposal(context, choice, seed))
                        rows.append(i * len(choices) + j)
        return proposals, rows


def _near(observed: Observations, contexts: Ints) -> Observations:
    """All or, of very many, those in some contexts, thinned out whatever they scored."""
    if len(observed) <= MOST_OBSERVED:
        return observed
    inside = np.isin(observed.at.context, contexts)
    # All may have failed in contexts that lag behind.
    near = observed.take(inside) if inside.any() else observed
    at = near.at
    return near.take(evenly(MOST_OBSERVED, at.temperature, at.kd_weight, near.seed, at.context))


def _wanted(known: Known) -> int:
    """Trials to choose by one surface, if there are contexts enough."""
    return min(sum(map(len, known.values())) // BATCH, MOST)


def _first(known: Known, number: int) -> Known:
    """The first so many trials of a search."""
    return {key: [t for t in trials if t.number < number] for key, trials in known.items()}


def _identity(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Tuned values as something to compare: numbers go through text and back."""
    return tuple(
        (name, round(value, 9) if isinstance(value, float) else value)
        for name, value in sorted(values.items())
    )
