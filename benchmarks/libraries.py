"""The response surface beside the Gaussian processes that libraries offer: seconds and regret.

    python benchmarks/libraries.py [--table T.parquet] [--replications 20] [--trials 8]

Each replication draws two seeds of a recorded table. Every context gets KD weights 0, ½ and 1 under
the first and further ones at random under either; every model is fitted to all of these trials and
recommends the KD weight of its highest mean in each context. Its regret is what that loses, in
points, by the mean of the other seeds. scikit-learn and GPyTorch (where it is installed) have no
covariance with seed effects or with an effect that vanishes at KD weight 0: they get the usual one,
squared exponential with a length scale per input (KD weight, logarithm of the fraction, indicators
of method and label noise), over all contexts; scikit-learn also alone in every context.

Prints a table, and as its last line one JSON object.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from threadpoolctl import threadpool_limits

from analysis.settings import Observations, Settings
from analysis.surface import fit
from analysis.table import read_table

Floats = NDArray[np.float64]
Model = Callable[[pd.DataFrame, pd.DataFrame], Floats]
"""Trials and places to the mean there; `context`, `log_fraction`, `kd_weight`, ... are columns."""

TABLE = Path(__file__).parent / "data" / "digits.parquet"
START = (0.0, 0.5, 1.0)
INPUTS = ("kd_weight", "log_fraction", "method_code", "label_noise")
STEPS = 100
"""Of Adam, for GPyTorch."""


def surface(trials: pd.DataFrame, places: pd.DataFrame) -> Floats:
    """Ours."""

    def settings(rows: pd.DataFrame) -> Settings:
        return Settings(
            context=rows["context"].to_numpy(),
            # Contexts with other label noise are told apart as other methods are.
            method=(rows["method_code"] + 2 * (rows["label_noise"] > 0)).to_numpy().astype(int),
            fraction=rows["fraction"].to_numpy(),
            teacher=np.zeros(len(rows), int),
            teacher_fraction=np.ones(len(rows)),
            temperature=np.full(len(rows), 2.0),
            kd_weight=rows["kd_weight"].to_numpy(),
        )

    observed = Observations(settings(trials), trials["score"].to_numpy(), trials["seed"].to_numpy())
    return fit(observed).mean(settings(places))


def scikit(trials: pd.DataFrame, places: pd.DataFrame) -> Floats:
    """scikit-learn, one process over all contexts."""
    return _scikit(trials, places, list(INPUTS))


def scikit_alone(trials: pd.DataFrame, places: pd.DataFrame) -> Floats:
    """scikit-learn, a process over the KD weight for every context."""
    means = np.empty(len(places))
    for context, rows in trials.groupby("context"):
        here = (places["context"] == context).to_numpy()
        means[here] = _scikit(rows, places[here], ["kd_weight"])
    return means


def _scikit(trials: pd.DataFrame, places: pd.DataFrame, inputs: list[str]) -> Floats:
    scales = np.ones(len(inputs))
    kernel = ConstantKernel(1.0) * RBF(scales, (0.05, 50)) + WhiteKernel(0.1, (1e-4, 10))
    model = GaussianProcessRegressor(kernel, normalize_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(trials[inputs], trials["score"])
    return np.asarray(model.predict(places[inputs]))


def gpytorch_process(trials: pd.DataFrame, places: pd.DataFrame) -> Floats:
    """GPyTorch, the same process over all contexts."""
    import gpytorch  # noqa: PLC0415  (optional)
    import torch  # noqa: PLC0415

    class Process(gpytorch.models.ExactGP):  # type: ignore[misc]
        def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
            super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
            self.mean = gpytorch.means.ConstantMean()
            kernel = gpytorch.kernels.RBFKernel(ard_num_dims=x.shape[1])
            self.covariance = gpytorch.kernels.ScaleKernel(kernel)

        def forward(self, x: torch.Tensor) -> object:
            return gpytorch.distributions.MultivariateNormal(self.mean(x), self.covariance(x))

    def tensor(values: pd.DataFrame | pd.Series) -> torch.Tensor:
        return torch.tensor(values.to_numpy(dtype=np.float64))

    center, scale = trials["score"].mean(), trials["score"].std()
    x, y = tensor(trials[list(INPUTS)]), tensor((trials["score"] - center) / scale)
    model = Process(x, y).double()
    likelihood = model.likelihood
    model.train()
    bound = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = -bound(model(x), y)
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        mean = model(tensor(places[list(INPUTS)])).mean
    return np.asarray(mean.numpy())


MODELS: dict[str, Model] = {
    "surface": surface,
    "scikit-learn, all contexts": scikit,
    "scikit-learn, context by context": scikit_alone,
    "GPyTorch, all contexts": gpytorch_process,
}


def drawn(runs: pd.DataFrame, rng: np.random.Generator, trials: int) -> tuple[pd.DataFrame, ...]:
    """The trials of a replication, and the mean of the seeds that it does not see."""
    seeds = rng.permutation(runs["seed"].unique())
    seen, unseen = seeds[:2], seeds[2:]
    weights = runs["kd_weight"].unique()
    asked = []
    for context in runs["context"].unique():
        further = rng.choice(weights, trials - len(START))
        asked += [(context, seen[0], weight) for weight in START]
        asked += [(context, rng.choice(seen), weight) for weight in further]
    wanted = pd.DataFrame(asked, columns=["context", "seed", "kd_weight"]).drop_duplicates()
    truth = runs[runs["seed"].isin(unseen)].drop(columns="seed")
    means = truth.groupby(["context", "kd_weight"], as_index=False).mean()
    return runs.merge(wanted, on=["context", "seed", "kd_weight"]), means


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--replications", type=int, default=20)
    parser.add_argument("--trials", type=int, default=8, help="a context")
    options = parser.parse_args()
    rows = read_table(options.table).rows
    rows = rows[rows["epoch"] == rows["epoch"].max()]
    runs = pd.DataFrame(
        {
            "context": rows.groupby(["label_noise", "method", "fraction"]).ngroup(),
            "seed": rows["seed"],
            "kd_weight": rows["kd_weight"],
            "fraction": rows["fraction"],
            "log_fraction": np.log(rows["fraction"]),
            "method_code": (rows["method"] == "random").astype(float),
            "label_noise": rows["label_noise"],
            "score": rows["score"],
        }
    )
    models = {n: m for n, m in MODELS.items() if m is not gpytorch_process or find_spec("gpytorch")}
    regret: dict[str, list[float]] = {name: [] for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    rng = np.random.default_rng(0)
    count = 0
    with threadpool_limits(1):
        for _ in range(options.replications):
            trials, truth = drawn(runs, rng, options.trials)
            count = len(trials)
            for name, model in models.items():
                began = time.process_time()
                mean = model(trials, truth)
                seconds[name].append(time.process_time() - began)
                lost = [
                    here["score"].max() - here["score"].iloc[here["mean"].to_numpy().argmax()]
                    for _, here in truth.assign(mean=mean).groupby("context")
                ]
                regret[name].append(100 * float(np.mean(lost)))
    table = Table("model", "regret, points", "more than the surface ± se", "s, median", box=None)
    figures = {}
    for name in models:
        more = np.subtract(regret[name], regret["surface"])
        figures[name] = {
            "regret": float(np.mean(regret[name])),
            "more": float(more.mean()),
            "se": float(more.std(ddof=1) / np.sqrt(len(more))),
            "seconds": float(np.median(seconds[name])),
        }
        lost, extra, error, took = figures[name].values()
        table.add_row(name, f"{lost:.3f}", f"{extra:+.3f} ± {error:.3f}", f"{took:.2f}")
    Console(width=100).print(table)
    there = [n for n in ("numpy", "scipy", "gpytorch") if find_spec(n)] + ["scikit-learn"]
    versions = {name: version(name) for name in there}
    print(json.dumps({"models": figures, "trials": count, "n": options.replications,
                      "versions": versions}))  # fmt: skip


if __name__ == "__main__":
    main()
