"""The names a trial is recorded under: the one schema that writer and reader share.

`search/` writes MLflow runs with these names, `analysis/` reads them. Nothing here
imports more than the standard library, so that a query pays nothing for it.
"""

from enum import StrEnum

SCHEMA_VERSION = 1
"""Version of the names below; stored with every experiment as ``TAG_SCHEMA``."""


class Outcome(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    """Trained for its full budget."""
    STOPPED_EARLY = "stopped_early"
    """Ended by the early-stopping scheduler at a rung."""
    FAILED = "failed"
    """Raised or diverged; ``TAG_REASON`` says why."""
    TIMEOUT = "timeout"
    """Stopped reporting and was ended by the watchdog."""


class SearchState(StrEnum):
    """Where a search stands."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class Kind(StrEnum):
    """What an MLflow run of ours records (``TAG_KIND``)."""

    SEARCH = "search"
    """The parent run: plan, progress and answers."""
    TRIAL = "trial"
    """A child run: one student trained once."""
    TEACHER = "teacher"
    """A child run: a teacher, made once and shared by trials."""
    SCORES = "scores"
    """A child run: pruning scores, made once and shared by trials."""
    CONFIRMATION = "confirmation"
    """A child run: one student trained afresh, and evaluated on the test set."""


# Tags, of the experiment (schema, search) and of runs.
TAG_SCHEMA = "kdcurve.schema"
TAG_SEARCH = "kdcurve.search"
TAG_KIND = "kdcurve.kind"
TAG_OBJECTIVE = "kdcurve.objective"
TAG_STATE = "kdcurve.state"
TAG_TUNED = "kdcurve.tuned"
"""Names of the parameters chosen within each context, separated by commas."""
TAG_KD_WEIGHT_RANGE = "kdcurve.kd_weight_range"
"""Lowest and highest KD weight to choose from, as ``low,high``; 0 is run besides."""
TAG_PLANNED = "kdcurve.planned"
"""When the search was planned, in milliseconds since 1970: tells records of one name apart."""
TAG_TRIAL = "kdcurve.trial"
TAG_ARTIFACT = "kdcurve.artifact"
"""Key of a teacher or of scores."""
TAG_TEACHER_RUN = "kdcurve.teacher_run"
TAG_SCORES_RUN = "kdcurve.scores_run"
"""Ids of the runs of what a trial used."""
TAG_STUDENT = "kdcurve.student"
"""Key of a confirmation's student: what its training depends on, and the number of the try."""
TAG_CHOSEN = "kdcurve.chosen"
"""Of a confirmation's student: keys of the contexts whose answer it was trained to confirm,
separated by commas; missing where it is what answers are compared with."""
TAG_CONTEXT = "kdcurve.context"
TAG_CONTEXT_LABEL = "kdcurve.context_label"
TAG_OUTCOME = "kdcurve.outcome"
TAG_REASON = "kdcurve.reason"
"""Of a trial: why it did not train to its end. Of the search: the criterion that ended it."""
TAG_EARLY_STOPPING = "kdcurve.early_stopping.effect"
"""Of the search: what early stopping did, in words."""
TAG_START_DESIGN = "kdcurve.start_design"
"""``true`` for the trials every context starts with (KD weights 0, ½ and 1)."""

# Parameters of a trial's run, with the type a reader gives them.
TRIAL_PARAMS: dict[str, type] = {
    "dataset": str,
    "label_noise": float,
    "student": str,
    "method": str,
    "fraction": float,
    "teacher": str,
    "teacher_fraction": float,
    "kd_weight": float,
    "temperature": float,
    "seed": int,
    "teacher_seed": int,
    "budget_epochs": int,
    "kept_samples": int,
}
CONTEXT_PARAMS = (
    "dataset",
    "student",
    "method",
    "fraction",
    "teacher",
    "teacher_fraction",
    "temperature",
)
"""Parameters that may tell one context from another."""

SEEDS_OF_TRIALS = 2**32
"""Trials have seeds below it, the students of a confirmation from it on."""
TEACHING_PARAMS = ("teacher", "teacher_fraction", "temperature", "teacher_seed")
"""Parameters without a meaning at KD weight 0; a confirmation's student there lacks them."""

# Metrics of a trial, one value per epoch (MLflow step = epoch, counted from 1).
TRAIN_LOSS = "train_loss"
TRAIN_CE = "train_ce"
TRAIN_KD = "train_kd"
VAL_ACCURACY = "val_accuracy"
"""Share of validation samples classified correctly, in [0, 1]."""
VAL_LOSS = "val_loss"
"""Mean cross-entropy on the validation split, in nats."""
VAL_NLL_SCALED = "val_nll_scaled"
"""The same after the best single temperature: what the logits are worth, in nats."""
VAL_TEMPERATURE = "val_temperature"
"""That temperature; above 1 the network is too sure of itself."""
VAL_ECE = "val_ece"
"""Expected calibration error on the validation split, in [0, 1]."""
VAL_R2 = "val_r2"
"""Coefficient of determination on the population (ridge problem), at most 1."""
SAMPLES_PER_S = "samples_per_s"
SECONDS = "seconds"
"""Training seconds since the trial's start, validation included."""
EPOCH = "epoch"
PEAK_MEMORY_BYTES = "peak_memory_bytes"
"""Most memory held since the training began: of the GPU where there is one, else of the process."""
LOST_CLASSES = "lost_classes"
"""Classes without a single kept sample; missing if none was lost."""
KEPT_NOISY = "kept_noisy_share"
"""Share of the kept samples whose label was replaced by label noise, in [0, 1]."""

MACHINE_METRICS = frozenset({SAMPLES_PER_S, SECONDS, PEAK_MEMORY_BYTES})
"""What depends on the machine and the moment: a repetition need not repeat it."""

# Metrics of a confirmation's student, beside the last validation metrics of its training.
TEST_ACCURACY = "test_accuracy"
"""Share of test samples classified correctly, in [0, 1]."""
TEST_NLL = "test_nll"
"""Mean cross-entropy on the test set, in nats."""
TEST_NLL_SCALED = "test_nll_scaled"
"""The same at the temperature that was fitted on the validation split (`VAL_TEMPERATURE`)."""
TEST_ECE = "test_ece"
"""Expected calibration error on the test set, in [0, 1]."""
TEST_R2 = "test_r2"
"""Coefficient of determination on the population (ridge problem): `VAL_R2`, which is exact."""
TEST_SCORES = {VAL_ACCURACY: TEST_ACCURACY, VAL_R2: TEST_R2}
"""What an objective is called on the test set."""

OBJECTIVES = {"classification": VAL_ACCURACY, "ridge": VAL_R2}
"""What a search maximises, by kind of problem."""

# The file of validation logits that a complete trial leaves, safetensors.
VAL_LOGITS = "logits"
"""Float16 `[v, classes]`."""
VAL_LABELS = "labels"
"""Int32 `[v]`: each file can be read by itself, at 2 / classes of the logits' size."""


def logits_key(number: int) -> str:
    """Name of a trial's file of logits, without the ending."""
    return f"trial-{number}"


def curve_metric(method: str, teacher: str) -> str:
    """Name of the parent run's metric that holds the best KD weight (step = `curve_step`)."""
    return f"best_kd_weight/{method}/{teacher}"


def confirmed_metric(method: str, teacher: str, over: int) -> str:
    """Name of the parent run's metric that holds a gain on test, over KD weight 0 or 1."""
    return f"test_gain_over_{over}/{method}/{teacher}"


def curve_step(fraction: float) -> int:
    """The MLflow step at which a fraction's answer is logged: thousandths of the data kept."""
    return round(1000 * fraction)
