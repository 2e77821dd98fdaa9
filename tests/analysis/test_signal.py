from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from analysis.interpolation import PseudoObservations
from analysis.signal import (
    ACCURACY,
    LOGITS,
    NLL,
    Observed,
    as_score,
    choose_signal,
    conversion,
    conversion_by_context,
)

WEIGHTS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
POINTS_PER_NAT = 0.2
TABLE = Path(__file__).parents[2] / "benchmarks" / "data" / "digits.parquet"


def _search(contexts=8, seeds=3, best=0.6, nll_best=0.6, noise=0.004, nll_noise=0.004, rng=0):
    """Accuracy and likelihood of a search; their best KD weights may be planted apart."""
    rng = np.random.default_rng(rng)
    context, seed, weight = (
        each.ravel() for each in np.meshgrid(range(contexts), range(seeds), WEIGHTS, indexing="ij")
    )
    of_seed = rng.normal(0, 0.01, (contexts, seeds))[context, seed]
    score = 0.9 - 0.1 * (weight - best) ** 2 + of_seed + rng.normal(0, noise, weight.size)
    nll = 0.5 + 0.5 * (weight - nll_best) ** 2 - 3 * of_seed
    return Observed(context, seed, weight, score), nll + rng.normal(0, nll_noise, weight.size)


def _pseudo(best=0.6, contexts=8, seeds=3):
    context, seed, weight = (
        each.ravel()
        for each in np.meshgrid(range(contexts), range(seeds), [0.3, 0.7], indexing="ij")
    )
    value = -0.5 - 0.5 * (weight - best) ** 2
    return PseudoObservations(context, seed, weight, value, np.zeros(weight.size))


def test_a_finer_signal_with_the_same_optimum_is_taken():
    score, nll = _search()
    choice = choose_signal(score, nll)
    assert choice.name == NLL
    found = choice.agreements[NLL]
    assert abs(found.loss) < 3 * found.loss_se + 1e-3
    assert found.contexts == 8
    assert found.rank_correlation > 0.8
    assert "likelihood" in choice.sentence
    assert "in 8 contexts" in choice.sentence


def test_a_signal_with_another_optimum_is_refused():
    """Correlated with accuracy, but to follow it to 1 instead of .6 loses .1 · .4² = 1.6 points."""
    choice = choose_signal(*_search(best=0.6, nll_best=1.0, noise=0.002))
    assert choice.name == ACCURACY
    found = choice.agreements[NLL]
    assert found.slope > 2 * found.slope_se
    assert found.loss == pytest.approx(0.016, abs=0.003)
    assert "not shown to agree" in choice.sentence


def test_a_signal_that_is_pure_noise_is_refused():
    score, _ = _search()
    noise = np.random.default_rng(5).normal(0.5, 0.1, len(score.value))
    assert choose_signal(score, noise).name == ACCURACY


def test_a_constant_signal_is_refused():
    score, nll = _search()
    assert choose_signal(score, np.full_like(nll, 0.5)).name == ACCURACY


def test_the_loss_is_unbiased_where_the_score_is_noisy():
    """The score's own optimum must not profit from the noise that judges it: over many searches
    a noiseless signal comes out at least as good as a noisy score."""
    losses = [
        choose_signal(*_search(contexts=4, noise=0.03, nll_noise=0.0, rng=rng)).agreements[NLL].loss
        for rng in range(60)
    ]
    assert np.mean(losses) < np.std(losses) / np.sqrt(60)


def test_without_likelihood_the_score_stays():
    score, _ = _search()
    for nll in (None, np.full(len(score.value), np.nan)):
        choice = choose_signal(score, nll)
        assert choice.name == ACCURACY
        assert choice.agreements == {}
        assert "nothing finer" in choice.sentence


def test_one_trial_without_likelihood_leaves_the_score():
    score, nll = _search()
    nll[5] = np.nan
    assert choose_signal(score, nll).name == ACCURACY


def test_a_likelihood_stands_for_the_score_that_it_usually_comes_with():
    score, nll = _search(noise=0.01, nll_noise=0.001)
    finer = as_score(score, nll)
    truth = 0.9 - 0.1 * (score.kd_weight - 0.6) ** 2
    for context in range(8):
        rows = score.context == context
        assert finer[rows].mean() == pytest.approx(score.value[rows].mean())
    within = [
        np.std([(each - truth)[score.context == c].std() for c in range(8)])
        for each in (finer, score.value)
    ]
    assert within[0] < within[1]


def test_no_context_has_its_likelihoods_turned_around():
    score, nll = _search(noise=0.001, nll_noise=0.001)
    turned = score.context == 0
    nll[turned] = 1.0 - nll[turned]
    finer = as_score(score, nll)
    assert np.corrcoef(finer[turned], nll[turned])[0, 1] < -0.99


def test_interpolated_logits_have_to_be_asked_for_and_must_not_mislead():
    score, nll = _search()
    both = (LOGITS, NLL)
    assert choose_signal(score, nll, _pseudo()).name == NLL
    assert choose_signal(score, nll, _pseudo(), preferred=both).name == LOGITS
    assert choose_signal(score, nll, preferred=both).name == NLL
    misleading = _pseudo()._replace(value=-2.0 * _pseudo().kd_weight)
    choice = choose_signal(score, nll, misleading, preferred=both)
    assert choice.name == NLL
    assert choice.agreements[LOGITS].loss > 0.005


def test_what_cannot_be_compared_between_seeds_is_not_followed():
    choice = choose_signal(*_search(seeds=1))
    assert choice.name == ACCURACY
    found = choice.agreements[NLL]
    assert np.isnan(found.loss)
    assert found.slope > 2 * found.slope_se


def test_in_few_noisy_contexts_another_optimum_is_still_refused():
    """What cannot be seen is not taken for agreement: to follow it would lose .4 points."""
    choices = [
        choose_signal(*_search(contexts=4, noise=0.01, nll_best=0.8, rng=rng)) for rng in range(20)
    ]
    assert sum(choice.name == ACCURACY for choice in choices) >= 18


def test_one_trial_is_not_enough():
    score, nll = _search()
    one = np.arange(len(nll)) == 0
    choice = choose_signal(score.take(one), nll[one])
    assert choice.name == ACCURACY
    assert "too few" in choice.sentence


def test_conversion_recovers_a_planted_slope_whatever_contexts_and_seeds_add():
    score, nll = _search(noise=0, nll_noise=0.05)
    rng = np.random.default_rng(2)
    shift = rng.normal(0, 1, (8, 3))[score.context, score.seed]
    signal = score._replace(value=-nll + 10 * score.context)
    planted = -POINTS_PER_NAT * nll + shift + rng.normal(0, 0.001, len(nll))
    slope, error = conversion(signal, planted)
    assert slope == pytest.approx(POINTS_PER_NAT, abs=4 * error)
    assert error < 0.01


def test_conversion_by_context_tells_clear_slopes_apart_and_pools_unclear_ones():
    score, nll = _search(contexts=6, noise=0, nll_noise=0.05)
    signal = score._replace(value=-nll)
    rng = np.random.default_rng(3)
    slopes = np.array([0.1, 0.1, 0.1, 0.5, 0.5, 0.5])[score.context]
    clear = conversion_by_context(signal, -slopes * nll + rng.normal(0, 0.001, len(nll)))
    assert [clear[i] for i in range(6)] == pytest.approx([0.1] * 3 + [0.5] * 3, abs=0.03)
    unclear = conversion_by_context(signal, -0.3 * nll + rng.normal(0, 0.5, len(nll)))
    common, error = conversion(signal, -0.3 * nll + np.random.default_rng(3).normal(0, 0.5, 90))
    assert np.ptp(list(unclear.values())) < 12 * error
    assert abs(common - 0.3) < 4 * error


def test_a_context_with_one_run_has_the_common_slope():
    score, nll = _search(contexts=2)
    kept = (score.context == 0) | (np.arange(len(nll)) == len(nll) - 1)
    signal = score._replace(value=-nll).take(kept)
    by_context = conversion_by_context(signal, score.value[kept])
    assert by_context[1] == conversion(signal, score.value[kept])[0]


def test_on_recorded_digits_the_likelihood_agrees_with_accuracy():
    """28 contexts of real students: two seeds at five KD weights each suffice to take it."""
    table = pq.read_table(TABLE, filters=[("epoch", "=", 27), ("seed", "<", 2)]).to_pandas()
    table = table[(4 * table.kd_weight).round(3) % 1 == 0]
    names = ["label_noise", "method", "fraction"]
    context = table.groupby(names, observed=True).ngroup().to_numpy()
    score = Observed(context, *(table[n].to_numpy(float) for n in ("seed", "kd_weight", "score")))
    choice = choose_signal(score, table.val_nll_scaled.to_numpy(float))
    assert choice.name == NLL
    assert choice.agreements[NLL].contexts == 28
    assert choice.agreements[NLL].rank_correlation > 0.75
    assert abs(choice.agreements[NLL].loss) < 0.005
