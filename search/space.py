"""What a search is: its contexts, trials, costs and budget, from the sections of its file."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, model_validator

from search.budget import USUAL_TRIALS, Budget
from search.errors import UsageError
from search.faults import cross_faults
from search.sections import (
    AUTO,
    Contexts,
    EarlyStopping,
    Faults,
    MethodName,
    ModelName,
    Resources,
    SamplerName,
    Seeds,
    TeacherWeights,
    Tune,
)
from trainables.config import (
    DatasetConfig,
    Pruning,
    Recipe,
    RidgeDataset,
    ScoresFile,
    Strict,
    TrialConfig,
    Tuple,
    content_key,
)
from trainables.costs import forward_flops
from trainables.record import OBJECTIVES, TRIAL_PARAMS
from trainables.sizes import VIEWS, DatasetInfo, augmentation_of, count_kept, describe

STEP_PASSES = 3
"""A training step in forward passes: its own, and a backward pass that takes twice as long."""
LARGEST_TABLE_BYTES = 4 * 2**30
"""Of soft labels: it is mapped into memory, and a node's trials share it."""
TUNABLE = ("kd_weight", "temperature", "teacher_fraction", "method", "teacher")


class Counted(Strict):
    """The size of a data set as it was found."""

    train_samples: int
    classes: int
    shape: Tuple[int]


@dataclass(frozen=True)
class Context:
    """One combination for which an answer is wanted."""

    key: str
    """Short hash of data set, student and values."""
    label: str
    """The same, readable."""
    values: Mapping[str, Any]
    """What the search file's `contexts` fixes here."""


@dataclass(frozen=True)
class Teaching:
    """What teachers' logits cost all trials together, in student's training steps × samples."""

    table: float
    """Of tables of all views, made once."""
    asking: float
    """Of asking for every batch, at most."""
    table_bytes: int
    """Size of one table."""


class SearchSpec(Strict):
    """A whole search: what to run, over what, and with what."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)
    """Lower-case letters, digits and hyphens."""
    dataset: DatasetConfig
    student: ModelName
    """Architecture of the students."""
    recipe: Recipe
    contexts: Contexts
    tune: Tune = Tune()
    seeds: Seeds = Seeds()
    sampler: SamplerName = "curve"
    """Chooses the trials. `curve`: one response surface over all contexts says which trial teaches
    most for its cost. `tpe`, `random`, `gp`, `cmaes` or `package.module:Class` (a sampler of
    Optuna's kind): the tuned values after the starting design, contexts and seeds taking turns.
    `grid`, `grid-crn`, `one-epoch-top-k`, `ray-stock`: baselines."""
    early_stopping: EarlyStopping = EarlyStopping()
    budget: Budget = Budget()
    resources: Resources = Resources()
    faults: Faults = Faults()
    pruning: Pruning = Pruning()
    """How scores become a subset."""
    soft_labels: Literal["auto", "views", "online", "fixed"] = "auto"
    """Where teachers' logits come from; `auto` weighs a table of all views against asking the
    teacher for every batch."""
    teachers: dict[ModelName, TeacherWeights] = Field(default_factory=dict)
    """Files with the weights of teachers that are not to be trained, by architecture."""
    score_files: dict[MethodName, ScoresFile] = Field(default_factory=dict)
    """Where the scores of `file:` methods lie; filled in when the search is planned."""
    forward_flops: dict[ModelName, int] | None = None
    """Price of an image's forward pass by architecture; filled in when the search is planned."""
    counted: Counted | None = None
    """Size of a data set that is counted on disk; filled in when the search is planned."""
    checkpoint_every_s: float = Field(60.0, ge=0.0, allow_inf_nan=False)
    """Seconds between a trial's checkpoints; a trial that is cut off goes on from the newest."""
    seed: int = Field(0, ge=0)
    """Seed of the search itself (its sampler)."""

    @model_validator(mode="after")
    def _whole(self) -> "SearchSpec":
        faults = list(cross_faults(dict(self)))
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @cached_property
    def context_list(self) -> tuple[Context, ...]:
        """Every combination of what stands under `contexts`."""
        named = {k: v for k, v in self.contexts.model_dump().items() if v is not None}
        made = []
        for combination in itertools.product(*named.values()):
            values = dict(zip(named, combination, strict=True))
            identity = {"dataset": self.dataset, "student": self.student, **values}
            label = " ".join(_label(k, v) for k, v in values.items())
            made.append(Context(content_key(identity, 8), label, values))
        return tuple(made)

    @cached_property
    def tuned(self) -> tuple[str, ...]:
        """Names of the values that are chosen within each context."""
        return tuple(k for k in TUNABLE if getattr(self.tune, k) is not None)

    @property
    def objective(self) -> str:
        """Name of the metric that is maximised."""
        return OBJECTIVES["ridge" if isinstance(self.dataset, RidgeDataset) else "classification"]

    @property
    def even(self) -> bool:
        """Whether every context gets as many trials as the others."""
        return self.sampler not in ("curve", "ray-stock")

    @property
    def pooled(self) -> bool:
        """Whether trials of all contexts are compared with one another, as a baseline does."""
        return self.sampler == "ray-stock"

    @property
    def trials(self) -> int | None:
        """Trials that the budget allows in all, None if it does not limit their number."""
        per_context = self.budget.trials_per_context
        return None if per_context is None else len(self.context_list) * per_context

    def trial_config(self, context: Context, values: Mapping[str, Any], seed: int) -> TrialConfig:
        """The full configuration of one trial of this search."""
        chosen = {**context.values, **values}
        return TrialConfig(
            dataset=self.dataset,
            student=self.student,
            recipe=self.recipe,
            seed=seed,
            teacher_seed=seed % self.seeds.teacher,
            score_seeds=self.seeds.scores,
            pruning=self.pruning,
            soft_labels=self.soft_label_source,
            teacher_file=self.teachers.get(chosen["teacher"]),
            scores_file=self.score_files.get(chosen["method"]),
            **chosen,
        )

    def trial_params(self, context: Context, config: TrialConfig) -> dict[str, Any]:
        """What a trial is recorded under, with the names of `record.TRIAL_PARAMS`."""
        values = {
            **config.model_dump(include=set(TRIAL_PARAMS), exclude={"dataset"}),
            "dataset": config.dataset.name,
            "label_noise": getattr(config.dataset, "label_noise", 0.0),
            "budget_epochs": self.total_epochs(context),
            "kept_samples": self.kept_samples(context),
        }
        return {key: values[key] for key in TRIAL_PARAMS}

    @cached_property
    def info(self) -> DatasetInfo:
        """Size of the data set: as it was found when the search was planned, or as it is now."""
        if self.counted is not None:
            return DatasetInfo(**dict(self.counted))
        return describe(self.dataset)

    def views(self, all_views: bool = True) -> int:
        """How many views of an image a table of soft labels has."""
        if not all_views or isinstance(self.dataset, RidgeDataset):
            return 1
        return VIEWS[augmentation_of(self.dataset)]

    @cached_property
    def flops(self) -> Mapping[str, int]:
        """Price of an image's forward pass, by architecture (students and teachers).

        A budget without `trials_per_context` is taken for one of the usual size, or its
        `epoch_samples`.

        Raises:
            UsageError: a network cannot be built for these images.
        """
        if self.forward_flops is not None:
            return self.forward_flops
        channels, height, width = self.info.shape
        shape = (channels, height, width)
        names = dict.fromkeys((self.student, *self.teacher_names))
        try:
            return {name: forward_flops(name, shape, self.info.classes) for name in names}
        except ValueError as error:
            raise UsageError(str(error)) from error

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """Architectures of the teachers."""
        return (*(self.contexts.teacher or ()), *(self.tune.teacher or ()))

    def relative_cost(self, architecture: str) -> float:
        """A training step of a network, in training steps of the student."""
        return self.flops[architecture] / self.flops[self.student]

    @cached_property
    def teaching(self) -> "Teaching":
        """The two ways to ask teachers, priced.

        A table costs one forward pass of a teacher per view and image, and 2 bytes per view,
        image and class; asking costs one per sample that a trial is trained on (at most: trials
        at KD weight 0 ask nothing, and some are stopped early).
        """
        samples = self.info.train_samples
        price = {name: self.relative_cost(name) / STEP_PASSES for name in self.teacher_names}
        shares = self.contexts.teacher_fraction or self.tune.teacher_fraction or [1.0]
        versions = self.seeds.teacher * len(shares)
        asked = in_all = 0.0
        trials = self.budget.trials_per_context or USUAL_TRIALS
        for context in self.context_list:
            # Which of several teachers a tuned trial takes is not known: it pays their mean.
            mine = [context.values["teacher"]] if "teacher" in context.values else list(price)
            trained = self.total_epochs(context) * self.kept_samples(context)
            mean = sum(price[name] for name in mine) / len(mine)
            in_all += trials * trained
            asked += trials * trained * mean
        if (allowed := self.budget.epoch_samples) is not None:
            whole = self.budget.trials_per_context is not None
            asked *= min(1.0, allowed / in_all) if whole else allowed / in_all
        return Teaching(
            table=sum(price.values()) * versions * self.views() * samples,
            asking=asked,
            table_bytes=2 * self.views() * samples * self.info.classes,
        )

    @cached_property
    def soft_label_source(self) -> Literal["views", "online", "fixed"]:
        """Where teachers' logits come from, once `auto` is settled."""
        if self.soft_labels != "auto":
            return self.soft_labels
        if isinstance(self.dataset, RidgeDataset):
            return "views"  # its closed form asks nobody
        fits = self.teaching.table_bytes <= LARGEST_TABLE_BYTES
        return "views" if fits and self.teaching.table <= self.teaching.asking else "online"

    def kept_samples(self, context: Context) -> int:
        """Training samples a student of this context sees in one epoch."""
        return count_kept(self.info.train_samples, context.values["fraction"])

    def total_epochs(self, context: Context) -> int:
        """A trial's full budget in this context, in epochs."""
        return self.recipe.total_epochs(self.kept_samples(context))

    def longest_epochs(self, context: Context) -> int:
        """The longest budget among the trials that those of a context are compared with."""
        return max(map(self.total_epochs, self.context_list if self.pooled else [context]))

    def rungs(self, context: Context, measured: float | None = None) -> tuple[int, ...]:
        """Epochs at which trials of this context are compared, ascending.

        Args:
            context: of the trials.
            measured: what `grace_epochs: auto` came to, as a share of the budget; None as long
                as it is not known, when nothing is compared.
        """
        stopping = self.early_stopping
        total = self.total_epochs(context)
        if stopping.name == "none" or (stopping.grace_epochs == AUTO and measured is None):
            return ()
        epoch: float
        if isinstance(stopping.grace_epochs, int):
            epoch = stopping.grace_epochs
        elif measured is not None and stopping.grace_epochs == AUTO:
            epoch = max(1, math.ceil(measured * total - 1e-9))  # k/n of n epochs is k
        else:
            epoch = math.ceil(self.longest_epochs(context) / 3)
        rungs = []
        while math.ceil(epoch) < total:
            rungs.append(math.ceil(epoch))
            epoch *= stopping.reduction_factor
        return tuple(dict.fromkeys(rungs))  # a factor near 1 meets an epoch more than once


def _label(key: str, value: object) -> str:
    short = {"fraction": "f", "temperature": "τ", "teacher_fraction": "f_t"}.get(key, key)
    return str(value) if key == "method" else f"{short}={value}"
