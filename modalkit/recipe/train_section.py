"""The ``train:`` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, WithJsonSchema, model_validator

from modalkit import registry
from modalkit.plugin import ScheduleOptions, Settings, as_tuple
from modalkit.recipe.plugged import invalid, validated_schedule


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Precision = Annotated[
    Literal["32", "64", "bf16-mixed"],
    BeforeValidator(_as_text),
    WithJsonSchema({"enum": ["32", 32, "64", 64, "bf16-mixed"]}),
]
PositiveInt = Annotated[int, Field(ge=1)]
AnySchedule = Annotated[SerializeAsAny[ScheduleOptions], BeforeValidator(validated_schedule)]


class SelfTrainingSettings(Settings):
    """Which absent modalities of training rows the model may fill with its own predictions, and when."""

    modalities: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = Field(
        min_length=1, description="Modalities of classes or bits."
    )
    confidence: float = Field(0.95, gt=0, le=1, description="Least probability of a prediction that is used.")
    after_epochs: int = Field(1, ge=0, description="Epochs before the first prediction is used; fewer than `epochs`.")


class TrainSettings(Settings):
    """How to train."""

    epochs: int = Field(10, ge=1, description="Passes over the training rows.")
    max_steps: PositiveInt | None = Field(None, description="Stop after this many steps, whatever the epoch.")
    batch_size: int = Field(100, ge=1, description="Rows a step, over all devices.")
    paired_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Least share of each batch for rows with two modalities or more. If they are rarer, they are "
        "oversampled, and an epoch is one pass over the other rows. null: no oversampling.",
    )
    self_training: SelfTrainingSettings | None = Field(
        None,
        description="Use the model's own confident predictions of absent modalities as if they were observed; they are "
        "made anew at every step.",
    )
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False, description="Learning rate of Adam.")
    schedule: AnySchedule = Field(
        ScheduleOptions(name="constant"),
        description="Schedule whose factor multiplies the learning rate: its name, or a mapping with name and options.",
    )
    beta_schedule: AnySchedule = Field(
        ScheduleOptions(name="constant"),
        description="Schedule whose factor multiplies objective.beta, beside its warm-up: its name, or a mapping.",
    )
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Scale gradients down to this Euclidean norm if theirs is larger."
    )
    average: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Decay of a moving average of the weights over the steps, such as 0.999, which is validated and "
        "kept in place of the weights themselves. null: no average.",
    )
    choose: Literal["elbo", "imputation"] = Field(
        "elbo",
        description="What the best epoch is chosen by on the validation rows. elbo: the ELBO. imputation: the error of "
        "predictions of known entries that are hidden.",
    )
    patience: PositiveInt | None = Field(
        None, description="Stop early after this many epochs without a better one, as `choose` compares them."
    )
    refit: bool = Field(
        False,
        description="Once the best epoch is chosen, train again from the start on training and validation rows, for as "
        "many epochs, and keep these weights as the best.",
    )
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field("auto", description="Type of device to train on.")
    devices: PositiveInt | Literal["auto"] = Field(1, description="Number of devices; auto: all.")
    precision: Precision = Field("32", description="Floating-point format of the computation.")
    compile: Literal["default", "reduce-overhead", "max-autotune"] | None = Field(
        None,
        description="Compile the networks with torch.compile in this mode; reduce-overhead replays CUDA graphs on a "
        "GPU.",
    )
    checkpoint_every: PositiveInt | None = Field(
        None, description="Steps between checkpoints; null: one at the end of each epoch."
    )
    log_every: int = Field(10, ge=1, description="Steps between lines of metrics.")
    loggers: tuple[Literal["tensorboard", "csv", "wandb", "mlflow"], ...] = Field(
        ("tensorboard", "csv"),
        description="Where to log metrics beside metrics.jsonl. wandb and mlflow need their packages, and log to local "
        "files unless their own environment variables say otherwise.",
    )
    pictures_every: int = Field(1, ge=0, description="Epochs between sample pictures; 0: only at the end.")

    @property
    def depends_on_epochs(self) -> bool:
        """Whether the number of epochs changes how a step trains, so that it is fixed once the training has begun."""
        names = (self.schedule.name, self.beta_schedule.name)
        return any(registry.get(registry.SCHEDULES, name).depends_on_epochs for name in names)

    @model_validator(mode="after")
    def _paired_share_leaves_room(self) -> TrainSettings:
        if self.paired_share is not None and self.batch_size < 2:
            raise invalid(("paired_share",), "needs a batch_size of 2 or more")
        return self

    @model_validator(mode="after")
    def _refit_without_guesses(self) -> TrainSettings:
        if self.refit and self.self_training is not None:
            raise invalid(("refit",), "cannot be combined with train.self_training; remove one of the two")
        return self

    @model_validator(mode="after")
    def _self_training_begins(self) -> TrainSettings:
        if self.self_training is not None and self.self_training.after_epochs >= self.epochs:
            raise invalid(
                ("self_training", "after_epochs"),
                f"must be less than train.epochs ({self.epochs}); give fewer, or train for more epochs",
            )
        return self
