"""What one trial is: frozen, validated configurations that refuse unknown keys."""

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

CLASSIFICATION_DATASETS = ("digits",)
METHODS = ("random", "el2n", "forgetting")
RIDGE_MODEL = "linear"
"""The one architecture of the closed-form problem."""
MODEL_FAMILIES = ("cnn4", "cnn8", "cnn16", "cnn32", "cnn64")

Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Temperature = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
KdWeight = Annotated[float, Field(ge=0.0, le=1.0)]


class Strict(BaseModel):
    """Base of all configurations: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def content_key(value: BaseModel | dict[str, Any], length: int = 16) -> str:
    """Hash all that determines a thing into a short name.

    Args:
        value: a configuration, or a dictionary of JSON values.
        length: hexadecimal digits to keep.
    """
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


class ImageDataset(Strict):
    """A data set of labelled images, held in memory."""

    name: Literal["digits"]
    """The source: `digits` is scikit-learn's 8x8 digits, bundled with it."""
    root: str = "data"
    """Folder of the files on disk (unused by bundled sources)."""
    validation: float = Field(0.1, gt=0.0, lt=1.0)
    """Part of the training set that is set aside, stratified and clean, to steer the search."""
    label_noise: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of training labels replaced by another class, drawn uniformly (symmetric noise)."""
    seed: int = Field(0, ge=0)
    """Draws the split and the label noise; shared by all trials."""


class RidgeDataset(Strict):
    """The closed-form problem: linear self-distillation, solved in a millisecond."""

    name: Literal["ridge"]
    samples: int = Field(200, ge=4)
    """Training samples before pruning."""
    dimension: int = Field(60, ge=1)
    """Number of features."""
    noise: float = Field(1.5, ge=0.0, allow_inf_nan=False)
    """Standard deviation of the label noise; the signal's variance is 1."""
    ridge: float = Field(0.1, gt=0.0, allow_inf_nan=False)
    """Regularisation per sample, shared by teacher and student."""
    decay: float = Field(0.7, ge=0.0, allow_inf_nan=False)
    """The variance of feature j is `j ** -decay`: the faster, the more alike the samples."""
    seed: int = Field(0, ge=0)
    """Draws the features and the true coefficients; shared by all trials."""


def _dataset_kind(value: object) -> str:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return "ridge" if name == "ridge" else "image"


DatasetConfig = Annotated[
    Annotated[ImageDataset, Tag("image")] | Annotated[RidgeDataset, Tag("ridge")],
    Discriminator(_dataset_kind),
]


class Recipe(Strict):
    """How a network is trained, students and teachers alike."""

    epochs: int | None = Field(None, ge=1)
    """Passes over the kept samples; small fractions then take fewer steps."""
    iterations: int | None = Field(None, ge=1)
    """Optimiser steps, the same at every fraction (instead of `epochs`)."""
    batch_size: int = Field(128, ge=1)
    optimizer: Literal["sgd"] = "sgd"
    """`sgd`: with Nesterov momentum."""
    lr: float = Field(0.1, gt=0.0, allow_inf_nan=False)
    momentum: float = Field(0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(5e-4, ge=0.0, allow_inf_nan=False)
    lr_schedule: Literal["cosine", "constant"] = "cosine"

    @model_validator(mode="after")
    def _one_budget(self) -> "Recipe":
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("set exactly one of `epochs` and `iterations`")
        return self

    def steps_per_epoch(self, samples: int) -> int:
        """Batches in one pass over `samples`, the last partial one included."""
        return math.ceil(samples / self.batch_size)

    def total_steps(self, samples: int) -> int:
        """Optimiser steps of a full training on `samples`."""
        if self.iterations is not None:
            return self.iterations
        assert self.epochs is not None  # noqa: S101  (the validator saw to it)
        return self.epochs * self.steps_per_epoch(samples)

    def total_epochs(self, samples: int) -> int:
        """Passes (the last maybe partial) of a full training on `samples`."""
        return math.ceil(self.total_steps(samples) / self.steps_per_epoch(samples))


class TrialConfig(Strict):
    """One student trained once: a context, the tuned values and a seed."""

    dataset: DatasetConfig
    student: str
    recipe: Recipe
    method: str
    fraction: Fraction
    teacher: str
    teacher_fraction: Fraction = 1.0
    temperature: Temperature = 4.0
    kd_weight: KdWeight
    seed: int = Field(ge=0)
    """Draws the random subset, the initial weights and the batch order."""
    teacher_seed: int = Field(0, ge=0)
    score_seeds: int = Field(10, ge=1)
    """Seeds that the pruning scores are averaged over."""


class TeacherSpec(Strict):
    """All that determines a teacher, and so the name it is cached under."""

    dataset: DatasetConfig
    architecture: str
    recipe: Recipe
    seed: int
    fraction: Fraction = 1.0

    @property
    def key(self) -> str:
        """Name in the cache."""
        return f"teacher-{self.architecture}-{content_key(self)}"

    @property
    def label(self) -> str:
        """The same for people."""
        data = "" if self.fraction == 1.0 else f" on {100 * self.fraction:.4g}% of the data"
        return f"teacher {self.architecture}{f' (seed {self.seed})' if self.seed else ''}{data}"


class ScoresSpec(Strict):
    """All that determines a method's scores; one ranking serves every fraction."""

    dataset: DatasetConfig
    method: str
    architecture: str
    recipe: Recipe
    seeds: int

    @property
    def key(self) -> str:
        """Name in the cache."""
        return f"scores-{self.method}-{content_key(self)}"

    @property
    def label(self) -> str:
        """The same for people."""
        return f"scores of {self.method}"


Artifact = TeacherSpec | ScoresSpec
"""What is made once and shared by trials."""


def artifacts(config: TrialConfig) -> list[Artifact]:
    """What must exist before this trial can start (nothing for closed-form problems)."""
    if config.dataset.name == "ridge":
        return []
    shared = {"dataset": config.dataset, "recipe": config.recipe}
    needed: list[Artifact] = [
        TeacherSpec(
            **shared,
            architecture=config.teacher,
            seed=config.teacher_seed,
            fraction=config.teacher_fraction,
        )
    ]
    if config.method != "random":
        needed.append(
            ScoresSpec(
                **shared,
                method=config.method,
                architecture=config.student,
                seeds=config.score_seeds,
            )
        )
    return needed
