"""What one trial is: frozen, validated configurations that refuse unknown keys."""

import hashlib
import json
import math
import re
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

CLASSIFICATION_DATASETS = (
    "digits",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "svhn",
    "imagefolder",
    "parquet",
)
METHODS = ("random", "forgetting", "el2n", "grand", "aum", "ccs")
RIDGE_MODEL = "linear"
"""The one architecture of the closed-form problem."""
MODEL_FAMILIES = (
    *("cnn4", "cnn8", "cnn16", "cnn32", "cnn64"),
    *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    *("resnet8x4", "resnet32x4", "wrn-16-2", "wrn-40-2", "wrn-40-4"),
)
TORCHVISION = "torchvision:"
"""Prefix of torchvision's classification models: `torchvision:resnet50`."""
FILE = "file:"
"""Prefix of scores that a user brings: `file:scores.npy`."""
_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_own(name: str) -> bool:
    """Whether a name is a user's own part, `package.module:function`."""
    return not name.startswith((TORCHVISION, FILE)) and _OWN.fullmatch(name) is not None


Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Temperature = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
KdWeight = Annotated[float, Field(ge=0.0, le=1.0)]


T = TypeVar("T")
Tuple = Annotated[
    tuple[T, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
]
"""A list in YAML and JSON; unlike a list it can be hashed."""


class Strict(BaseModel):
    """Base of all configurations: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    later_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after the first version; see `content_key`."""


def content_key(value: BaseModel | dict[str, Any], length: int = 16) -> str:
    """Hash all that determines a thing into a short name.

    Fields that a model gained after its first version count only when they are set: what was
    named before keeps its name.

    Args:
        value: a configuration, or a dictionary of JSON values and configurations.
        length: hexadecimal digits to keep.
    """
    canonical = json.dumps(_identity(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def _identity(value: object) -> object:
    if isinstance(value, Strict):
        held = {name: getattr(value, name) for name in type(value).model_fields}
        fields = type(value).model_fields
        return {
            name: _identity(each)
            for name, each in held.items()
            if name not in value.later_fields or each != fields[name].default
        }
    if isinstance(value, dict):
        return {key: _identity(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(each) for each in value]
    return value


class ImageDataset(Strict):
    """A data set of labelled images, held in memory as bytes."""

    later_fields = frozenset(
        {"download", "noise", "subset", "augmentation", "image_size", "train", "test"}
    )

    name: str = Field(json_schema_extra={"not": {"const": "ridge"}})
    """The source: one of `CLASSIFICATION_DATASETS`, or `package.module:function`."""
    root: str = "data"
    """Folder of the files on disk (unused by `digits`)."""
    download: bool = False
    """Fetch what is missing there (cifar10, cifar100, svhn, fashion_mnist)."""
    train: str = "train"
    test: str = "test"
    """Of `imagefolder` the folders below `root`, of `parquet` the patterns of the files' names."""
    image_size: int | None = Field(None, ge=4)
    """Height and width that images are scaled and cropped to; needed where they differ."""
    subset: Fraction = 1.0
    """Stratified part of the training set to use at all, for quick runs."""
    validation: float = Field(0.1, gt=0.0, lt=1.0)
    """Part of the training set that is set aside, stratified and clean, to steer the search."""
    label_noise: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of training labels replaced by another class."""
    noise: Literal["symmetric", "class_dependent"] = "symmetric"
    """Which class replaces it: any other, or always the next one."""
    augmentation: Literal["auto", "none", "crop", "crop-flip"] = "auto"
    """Views that training sees; `auto`: none for digits, crop for svhn, else crop-flip."""
    seed: int = Field(0, ge=0)
    """Draws the split, the subset and the label noise; shared by all trials."""


class RidgeDataset(Strict):
    """The closed-form problem: linear self-distillation, solved in a millisecond."""

    later_fields = frozenset({"teacher_ridge"})

    name: Literal["ridge"]
    samples: int = Field(200, ge=4)
    """Training samples before pruning."""
    dimension: int = Field(60, ge=1)
    """Number of features."""
    noise: float = Field(1.5, ge=0.0, allow_inf_nan=False)
    """Standard deviation of the label noise; the signal's variance is 1."""
    ridge: float = Field(0.1, gt=0.0, allow_inf_nan=False)
    """Regularisation per sample, of the student and, unless it has its own, of the teacher."""
    teacher_ridge: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """Regularisation per sample of the teacher."""
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

    later_fields = frozenset({"milestones", "gamma", "warmup", "clip_norm", "precision", "compile"})

    epochs: int | None = Field(None, ge=1)
    """Passes over the kept samples; small fractions then take fewer steps."""
    iterations: int | None = Field(None, ge=1)
    """Optimiser steps, the same at every fraction (instead of `epochs`)."""
    batch_size: int = Field(128, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`sgd`: with Nesterov momentum; `adamw`: Adam with decoupled weight decay."""
    lr: float = Field(0.1, gt=0.0, allow_inf_nan=False)
    momentum: float = Field(0.9, ge=0.0, lt=1.0)
    """Of `sgd`; `adamw` has its usual 0.9 and 0.999."""
    weight_decay: float = Field(5e-4, ge=0.0, allow_inf_nan=False)
    lr_schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    milestones: Tuple[Fraction] = (0.5, 0.75)
    """Parts of the budget after which `multistep` multiplies the learning rate by `gamma`."""
    gamma: float = Field(0.1, gt=0.0, lt=1.0)
    warmup: float = Field(0.0, ge=0.0, lt=1.0)
    """Part of the budget over which the learning rate rises from 0 in a straight line."""
    clip_norm: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """Longest gradient; longer ones are scaled down to it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the forward pass; `auto`: bf16 on a GPU, fp32 on a CPU."""
    compile: bool = False
    """Let `torch.compile` translate the network: slow to start, faster where trials are long."""

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


class Pruning(Strict):
    """How scores become a subset, and the conventions of scores that have several."""

    keep: Literal["hardest", "easiest"] = "hardest"
    balanced: bool = False
    """Keep every class in proportion."""
    never_learned: Literal["maximum", "zero"] = "maximum"
    """`forgetting` of samples never correct: the maximum (Toneva et al.), or 0 as in DeepCore."""
    gradient: Literal["all", "last"] = "all"
    """`grand`: of all parameters, or of the last layer alone (an approximation)."""
    base: Literal["forgetting", "el2n", "grand", "aum"] = "aum"
    """`ccs`: the score that is stratified."""
    strata: int = Field(50, ge=2)
    """`ccs`: ranges of equal width that scores are divided into."""
    hardest_share: float = Field(0.1, ge=0.0, lt=1.0)
    """`ccs`: share of the hardest samples left out first."""


class TeacherFile(Strict):
    """Weights of a teacher that the user brings."""

    file: str
    """Safetensors, or a state dictionary that `torch.load` reads with `weights_only`."""
    sha256: str | None = None
    """Of the file's content; filled in when the search is planned."""


class ScoresFile(Strict):
    """Pruning scores that the user brings."""

    file: str
    """As the method names it (`file:scores.npy`); a whole path once the search is planned."""
    sha256: str | None = None
    """Of the file's content; filled in when the search is planned."""


class TrialConfig(Strict):
    """One student trained once: a context, the tuned values and a seed."""

    later_fields = frozenset({"pruning", "soft_labels", "teacher_file", "scores_file"})

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
    pruning: Pruning = Pruning()
    soft_labels: Literal["views", "online", "fixed"] = "views"
    """Where the teacher's logits come from: a table of all views, the teacher itself for every
    batch, or a table of the clean images alone (cheaper, and another recipe)."""
    teacher_file: TeacherFile | None = None
    scores_file: ScoresFile | None = None
    """Where the scores of a `file:` method lie; None leaves that to the method's own path."""


_TEACHING = ("teacher_fraction", "temperature", "teacher_seed", "soft_labels", "teacher_file")
"""What bears on nothing at KD weight 0, beside the teacher."""


class DatasetSpec(Strict):
    """A data set in memory's form: downloaded, decoded and split."""

    dataset: ImageDataset

    @property
    def key(self) -> str:
        """Name in the record."""
        return f"dataset-{content_key(self)}"

    @property
    def label(self) -> str:
        """The same for people."""
        return f"data set {self.dataset.name}"


class TeacherSpec(Strict):
    """All that determines a teacher, and so the name it is cached under."""

    later_fields = frozenset({"file"})

    dataset: DatasetConfig
    architecture: str
    recipe: Recipe
    seed: int
    fraction: Fraction = 1.0
    file: TeacherFile | None = None
    """Weights that the user brings, instead of training."""

    @property
    def key(self) -> str:
        """Name in the cache."""
        return f"teacher-{plain_name(self.architecture)}-{content_key(self)}"

    @property
    def label(self) -> str:
        """The same for people."""
        if self.file:
            return f"teacher {self.architecture} from {self.file.file}"
        data = "" if self.fraction == 1.0 else f" on {100 * self.fraction:.4g}% of the data"
        return f"teacher {self.architecture}{f' (seed {self.seed})' if self.seed else ''}{data}"


class SoftLabelsSpec(Strict):
    """A teacher's logits of all views, or of the clean ones."""

    teacher: TeacherSpec
    all_views: bool

    @property
    def key(self) -> str:
        """Name in the cache."""
        return f"logits-{plain_name(self.teacher.architecture)}-{content_key(self)}"

    @property
    def label(self) -> str:
        """The same for people."""
        return f"soft labels of {self.teacher.label}"


class ScoresSpec(Strict):
    """All that determines a method's scores; one ranking serves every fraction."""

    later_fields = frozenset({"options"})

    dataset: DatasetConfig
    method: str
    architecture: str
    recipe: Recipe
    seeds: int
    options: Pruning = Pruning()
    """Only what bears on the scores; the rest is at its defaults."""

    @property
    def key(self) -> str:
        """Name in the cache."""
        return f"scores-{plain_name(self.method)}-{content_key(self)}"

    @property
    def label(self) -> str:
        """The same for people."""
        return f"scores of {self.method}"


Artifact = DatasetSpec | TeacherSpec | SoftLabelsSpec | ScoresSpec
"""What is made once and shared by trials."""


def plain_name(name: str) -> str:
    """A name as it may stand in a file's."""
    return re.sub(r"[^\w.-]+", "-", name)


def artifacts(config: TrialConfig) -> list[Artifact]:
    """What must exist before this trial can start (nothing for closed-form problems).

    In the order in which they are made: what comes later may need what comes before.
    """
    if isinstance(config.dataset, RidgeDataset):
        return []
    needed: list[Artifact] = [DatasetSpec(dataset=config.dataset)]
    if config.method != "random" and not config.method.startswith(FILE):
        needed.append(scores_spec(config))
    if config.kd_weight > 0:
        teacher = teacher_spec(config)
        needed.append(teacher)
        if config.soft_labels != "online":
            needed.append(SoftLabelsSpec(teacher=teacher, all_views=config.soft_labels == "views"))
    return needed


def student_key(config: TrialConfig) -> str:
    """Name of a student by all that its training depends on; at KD weight 0 no teacher does."""
    if config.kd_weight == 0.0:
        untaught = {name: TrialConfig.model_fields[name].default for name in _TEACHING}
        config = config.model_copy(update={**untaught, "teacher": ""})
    return content_key(config)


def teacher_spec(config: TrialConfig) -> TeacherSpec:
    """The teacher that a trial learns from."""
    return TeacherSpec(
        dataset=config.dataset,
        architecture=config.teacher,
        recipe=config.recipe,
        seed=config.teacher_seed,
        fraction=config.teacher_fraction,
        file=config.teacher_file,
    )


def scores_spec(config: TrialConfig) -> ScoresSpec:
    """The scores that a trial's samples are chosen by."""
    options = config.pruning
    method = options.base if config.method == "ccs" else config.method
    bearing = {"forgetting": {"never_learned"}, "grand": {"gradient"}}.get(method, set())
    return ScoresSpec(
        dataset=config.dataset,
        method=method,
        architecture=config.student,
        recipe=config.recipe,
        seeds=config.score_seeds,
        options=Pruning(**options.model_dump(include=bearing)),
    )
