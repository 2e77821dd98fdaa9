"""A world of recorded runs: trials are looked up in a response table."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from analysis.errors import known
from analysis.table import ResponseTable
from search.errors import UsageError
from search.space import SearchSpec
from search.worlds import Floats, Metrics, settings
from trainables.record import EPOCH, VAL_NLL_SCALED
from trainables.seeds import derive

NEIGHBOURS = 3
"""Recorded KD weights that one between them is answered from."""
_SHOWN = 3
"""Faults of a table that a message lists."""


class _Runs(NamedTuple):
    """The complete runs of a seed at one temperature of a context."""

    kd_weights: Floats
    """Ascending, `[w]`."""
    metrics: Floats
    """Score and temperature-scaled NLL after each reported epoch, `[w, epochs, 2]`."""

    def covers(self, low: float, high: float) -> bool:
        """Whether the KD weights of a range lie between recorded ones."""
        return bool(self.kd_weights[0] <= low + _NEAR and high - _NEAR <= self.kd_weights[-1])

    def at(self, kd_weights: Floats) -> Floats:
        """Metrics at KD weights `[k]`, from the recorded ones next to each: `[k, epochs, 2]`.

        Lagrange's polynomial through three of them, in the middle the nearest. It leaves the
        noise of a single run nearly as large as it is (a variance of .9 on average over an even
        grid, a straight line's would be .67), so that in between is no place of better luck.
        """
        count = min(NEIGHBOURS, len(self.kd_weights))
        nearest = np.abs(kd_weights[:, None] - self.kd_weights).argmin(axis=1)
        first = np.clip(nearest - 1, 0, len(self.kd_weights) - count)
        index = first[:, None] + np.arange(count)
        nodes = self.kd_weights[index]
        factors = np.ones(index.shape)
        for i, j in itertools.permutations(range(count), 2):
            factors[:, i] *= (kd_weights - nodes[:, j]) / (nodes[:, i] - nodes[:, j])
        answer: Floats = np.einsum("kn,knem->kem", factors, self.metrics[index])
        return answer


_NEAR = 1e-9
_Seeds = dict[int, _Runs]
_Key = tuple[Any, ...]


class _Cell(NamedTuple):
    """What a table has of one context."""

    epochs: tuple[int, ...]
    temperatures: dict[float, _Seeds]


class TableWorld:
    """Recorded runs, for a search that asks for nothing outside of them.

    KD weights between recorded ones are answered seed by seed (see `_Runs.at`), temperatures
    by a straight line over their logarithm. Runs that were stopped early are left out.

    Args:
        table: the runs.
        spec: the search.

    Raises:
        UsageError: contexts, seeds, epochs or a part of the tuned range are missing there; the
            message names them.
    """

    def __init__(self, table: ResponseTable, spec: SearchSpec) -> None:
        self._objective = table.objective
        self._cells = _cells(table)
        faults = list(self._faults(table, spec))
        if faults:
            more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
            count = f"{len(faults)} faults" if len(faults) > 1 else "1 fault"
            shown = "\n  ".join(faults[:_SHOWN])
            raise UsageError(f"the table does not answer for {spec.name}: {count}\n  {shown}{more}")
        wanted = [self._cells[_key(setting)] for _, setting in settings(spec)]
        self._seeds = sorted(set.intersection(*(_common_seeds(cell) for cell in wanted)))
        if len(self._seeds) < spec.seeds.trials:
            raise UsageError(
                f"seeds.trials: {spec.seeds.trials} is more than the table has in every context; "
                f"allowed: 1 to {len(self._seeds)}"
            )
        self._orders: dict[int, list[int]] = {0: self._seeds}
        self._means: dict[tuple[_Key, float], _Runs | None] = {}

    def _faults(self, table: ResponseTable, spec: SearchSpec) -> Iterator[str]:
        if table.objective != spec.objective:
            yield f"its scores are {table.objective}, the search maximises {spec.objective}"
        weights = spec.tune.kd_weight
        rungs = {c.key: spec.rungs(c) for c in spec.context_list}
        for context, setting in settings(spec):
            cell = self._cells.get(_key(setting))
            where = f"{context.label}:"
            if cell is None:
                yield f"{where} no complete run of {_text(setting)}; {self._nearest(setting)}"
                continue
            if cell.epochs[-1] != (total := spec.total_epochs(context)):
                yield f"{where} its runs have {cell.epochs[-1]} epochs, the search's {total}"
            if absent := [rung for rung in rungs[context.key] if rung not in cell.epochs]:
                yield (
                    f"{where} trials are compared at epoch {absent[0]} (early_stopping), and it "
                    f"has epochs {known(cell.epochs)}"
                )
            for low, high in self._outside(cell, spec, setting):
                yield f"{where} temperatures {low:g} to {high:g} are not covered"
            short = [
                seed
                for seeds in cell.temperatures.values()
                for seed, runs in seeds.items()
                if not runs.covers(0.0, weights.high)
            ]
            if short:
                yield (
                    f"{where} KD weights 0 to {weights.high:g} are not covered at seeds "
                    f"{known(sorted(set(short))[:8])}"
                )

    def _outside(
        self, cell: _Cell, spec: SearchSpec, setting: Mapping[str, Any]
    ) -> Iterator[tuple[float, float]]:
        tuned = spec.tune.temperature
        low, high = (tuned.low, tuned.high) if tuned else (setting["temperature"],) * 2
        if not (min(cell.temperatures) <= low + _NEAR and high - _NEAR <= max(cell.temperatures)):
            yield low, high

    def _nearest(self, setting: Mapping[str, Any]) -> str:
        """Which part of a context the table lacks, or that it only lacks all of them together."""
        for position, name in enumerate(_KEY):
            there = {key[position] for key in self._cells}
            if (value := _key(setting)[position]) not in there:
                return f"{name} {value} is unknown there, known: {known(sorted(there))}"
        return "it has each of these values, but not together"

    def reports(self, trial: Mapping[str, Any], draw: int) -> list[Metrics]:
        """What the runs next to it reported, at the epochs that they reported."""
        cell = self._cells[_key(trial)]
        seed = self._order(draw)[trial["seed"]]
        weight = np.array([trial["kd_weight"]])
        metrics = sum(
            share * cell.temperatures[temperature][seed].at(weight)[0]
            for temperature, share in _between(cell, trial["temperature"], trial["kd_weight"])
        )
        return [
            {
                EPOCH: epoch,
                self._objective: score,
                **({} if np.isnan(nll) else {VAL_NLL_SCALED: nll}),
            }
            for epoch, (score, nll) in zip(cell.epochs, np.asarray(metrics).tolist(), strict=True)
        ]

    def truth(self, setting: Mapping[str, Any], kd_weights: Floats) -> Floats:
        """The mean over all seeds of the table, interpolated as `reports` does."""
        key = _key(setting)
        cell = self._cells[key]
        total = np.zeros(len(kd_weights))
        for temperature, share in _between(cell, setting["temperature"], 1.0):
            total += share * self._mean(key, temperature, kd_weights)
        return total

    def temperatures(self, spec: SearchSpec) -> tuple[float, ...]:
        """Those of the table that lie in the tuned range, and its ends."""
        tuned = spec.tune.temperature
        if tuned is None:
            return ()
        there = {t for cell in self._cells.values() for t in cell.temperatures}
        return tuple(
            sorted({tuned.low, tuned.high, *(t for t in there if tuned.low < t < tuned.high)})
        )

    def _order(self, draw: int) -> list[int]:
        """The table's seeds in the order in which a replication uses them."""
        if draw not in self._orders:
            rng = np.random.default_rng(derive("replication", draw))
            self._orders[draw] = rng.permutation(self._seeds).tolist()
        return self._orders[draw]

    def _mean(self, key: _Key, temperature: float, kd_weights: Floats) -> Floats:
        seeds = self._cells[key].temperatures[temperature]
        if (key, temperature) not in self._means:
            self._means[key, temperature] = _mean_runs(list(seeds.values()))
        mean = self._means[key, temperature]
        if mean is not None:
            return mean.at(kd_weights)[:, -1, 0]
        answers = [runs.at(kd_weights)[:, -1, 0] for runs in seeds.values()]
        return np.asarray(np.mean(answers, axis=0))


def _mean_runs(runs: list[_Runs]) -> _Runs | None:
    """The mean of seeds with the same KD weights; None if they have different ones."""
    first = runs[0].kd_weights
    if any(not np.array_equal(each.kd_weights, first) for each in runs):
        return None
    return _Runs(first, np.mean([each.metrics for each in runs], axis=0))


def _common_seeds(cell: _Cell) -> set[int]:
    return set.intersection(*(set(seeds) for seeds in cell.temperatures.values()))


def _between(cell: _Cell, temperature: float, kd_weight: float) -> list[tuple[float, float]]:
    """Recorded temperatures that answer for one, with their shares."""
    there = sorted(cell.temperatures)
    if kd_weight == 0.0 or len(there) == 1:
        return [(there[0], 1.0)]  # without a teacher it has no effect
    upper = int(np.clip(np.searchsorted(there, temperature), 1, len(there) - 1))
    low, high = there[upper - 1], there[upper]
    share = float(np.log(temperature / low) / np.log(high / low))
    return [(t, part) for t, part in ((low, 1.0 - share), (high, share)) if part]


_KEY = ("dataset", "label_noise", "student", "method", "fraction", "teacher", "teacher_fraction")


def _key(setting: Mapping[str, Any]) -> _Key:
    """What a context is called in the table."""
    dataset = setting["dataset"]
    return (
        dataset["name"],
        round(dataset.get("label_noise", 0.0), 6),
        _bare(setting["student"]),
        setting["method"],
        round(setting["fraction"], 6),
        _bare(setting["teacher"]),
        round(setting["teacher_fraction"], 6),
    )


def _bare(name: str) -> str:
    """A network's own name: a search file has to write `module:mlp16` for one of the user's."""
    return name.rpartition(":")[2]


def _text(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{n} {v}" for n, v in zip(_KEY, _key(setting), strict=True))


def _cells(table: ResponseTable) -> dict[_Key, _Cell]:
    """The table's complete runs, context by context.

    Raises:
        UsageError: complete runs of a context reported different epochs.
    """
    rows = table.rows.sort_values(["temperature", "seed", "kd_weight", "epoch"])
    rows = rows.assign(student=rows["student"].map(_bare), teacher=rows["teacher"].map(_bare))
    cells: dict[_Key, _Cell] = {}
    for key, group in rows.groupby(list(_KEY), sort=False):
        run = (
            group[["temperature", "seed", "kd_weight"]].diff().ne(0).any(axis=1).cumsum().to_numpy()
        )
        total = int(group["epoch"].max())
        last = group["epoch"].groupby(run).transform("max").to_numpy()
        group, run = group[last == total], run[last == total]  # noqa: PLW2901
        epochs = tuple(np.unique(group["epoch"]).tolist())
        runs = len(np.unique(run))
        if len(group) != runs * len(epochs):
            raise UsageError(f"table: complete runs of {key} reported different epochs")
        heads = group.iloc[:: len(epochs)]
        metrics = group[["score", "val_nll_scaled"]].to_numpy().reshape(runs, len(epochs), 2)
        temperatures: dict[float, _Seeds] = {}
        for (temperature, seed), at in heads.reset_index().groupby(["temperature", "seed"]):
            rows_of_seed = at.index.to_numpy()
            temperatures.setdefault(temperature, {})[int(seed)] = _Runs(
                at["kd_weight"].to_numpy(), metrics[rows_of_seed]
            )
        cells[tuple(key)] = _Cell(epochs, temperatures)
    return cells
