"""The engine's own settings, apart from any objective's."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from trueup.errors import UserError, check_at_least, check_between, check_choice, check_positive

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["fp32", "bf16"]
Truncate = Literal["prompt-left", "error"]
FREE_ON_RESUME = ("save_every", "trackers", "token_budget")  # may change: the result does not


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the engine trains.

    Fields: steps, where given, ends training whatever `epochs` says; batch_size counts examples
            (pairs, completions) per optimiser step over all processes; token_budget bounds the
            tokens of one forward pass, None takes the model's own; learning_rate's default suits
            full preference tuning, LoRA wants 5e-6 to 5e-5 and sft more; warmup is the share of
            steps that rise; clip bounds the gradient's norm, 0 never clips; precision "bf16"
            computes under autocast over float32 weights; dropout false keeps the policy's dropout
            off, so that policy and reference differ by training alone; lora_r 0 trains all
            weights; lora_targets empty means every linear layer but the head; eval_every and
            save_every count steps, 0 is never; eval_fraction of the prompts is held out where no
            evaluation rows are given; early_stopping stops after that many evaluations in a row
            without a lower loss and keeps the best weights; max_length None is the model's
            context; truncate says what happens to an example that is longer; trackers are
            accelerate's (`tensorboard`, ...). Of objectives on own samples: max_new_tokens,
            temperature, top_k and top_p are those of sampling; round_prompts is how many prompts
            are sampled before the updates on them, None as many as a batch has; round_epochs is
            how often those updates go over a round's samples. monitor measures at every evaluation
            top-k entropy in bits and top-k mass (k is monitor_k) of the next-token distributions at
            the positions that predict the wanted completion (chosen; completions; those labelled
            true), in one more pass over these, and the likelihood per token of wanted and unwanted
            completions; notes tell what the detector of over-optimisation finds in them, and how
            much displacement the training pairs risk (`ches`). monitor_stop ends training once the
            monitor shows over-optimisation, and keeps the weights of the last good evaluation. Of
            objectives on own samples every evaluation samples the held-out prompts as a round does,
            always by the same seed; early_stopping waits for a higher held-out reward, and the
            monitor looks at the policy's own samples, reward and KL (`own_sample_flags`).
            teacher_top_k, of objectives with a teacher, above 0 lets the teachers read every
            example once, before the first step, and keeps that many of their likeliest tokens per
            position (of two teachers those of both) and the rest as one bucket in the run's
            folder, 400 MB for a million completion tokens at 50 (of two teachers 1.2 GB); 0 asks
            the teachers at every step for whole distributions.
    Raises: UserError where a field leaves its range.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 8
    token_budget: int | None = None
    shuffle: bool = True
    seed: int = 0
    learning_rate: float = 1e-6
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False
    dropout: bool = False
    lora_r: int = 0
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = ()
    eval_every: int = 0
    eval_fraction: float = 0.0
    early_stopping: int | None = None
    save_every: int = 100
    max_length: int | None = None
    truncate: Truncate = "prompt-left"
    trackers: tuple[str, ...] = ()
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    round_prompts: int | None = None
    round_epochs: int = 1
    monitor: bool = False
    monitor_k: int = 10
    monitor_stop: bool = False
    teacher_top_k: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        check_at_least(1, max_new_tokens=self.max_new_tokens, round_epochs=self.round_epochs)
        check_at_least(1, monitor_k=self.monitor_k)
        check_at_least(0, temperature=self.temperature, top_k=self.top_k)
        check_between(0, 1, top_p=self.top_p)
        for name in ("steps", "token_budget", "early_stopping", "round_prompts"):
            value = getattr(self, name)
            if value is not None:
                check_at_least(1, **{name: value})
        if self.max_length is not None:
            check_at_least(4, max_length=self.max_length)
        check_positive(learning_rate=self.learning_rate, lora_alpha=self.lora_alpha)
        check_at_least(0, seed=self.seed, weight_decay=self.weight_decay, clip=self.clip)
        check_at_least(0, lora_r=self.lora_r, eval_every=self.eval_every)
        check_at_least(0, save_every=self.save_every, teacher_top_k=self.teacher_top_k)
        check_between(0, 1, warmup=self.warmup, lora_dropout=self.lora_dropout)
        check_between(0, 0.9, eval_fraction=self.eval_fraction)
        for place, beta in enumerate(self.betas, start=1):
            if not 0 <= beta < 1:
                raise UserError(f"betas[{place}] must lie in [0, 1), got {beta}")
        if len(self.betas) != 2:
            raise UserError(f"betas must be two numbers, got {len(self.betas)}")
        check_choice(get_args(Schedule), schedule=self.schedule)
        check_choice(get_args(Precision), precision=self.precision)
        check_choice(get_args(Truncate), truncate=self.truncate)
        if self.monitor_stop and not (self.monitor and self.eval_every):
            raise UserError(
                "monitor_stop needs evaluations that are monitored; set monitor=true "
                "and eval_every to a number of steps"
            )
        if self.monitor_stop and self.early_stopping is not None:
            raise UserError("early_stopping and monitor_stop keep other weights; give one of them")
        if self.early_stopping is not None and not self.eval_every:
            raise UserError("early_stopping needs evaluations; set eval_every to a number of steps")

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def learning_rate(config: TrainingConfig, step: float, steps: float) -> float:
    """The learning rate of a step, counted from 0; a function of the step and nothing else.

    It rises to the full rate over the first `warmup * steps` steps, then stays (constant), falls
    in a line to 0 (linear) or along half a cosine to 0 (cosine).
    """
    rising = math.ceil(config.warmup * steps)
    if step < rising:
        return config.learning_rate * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return config.learning_rate * factors[config.schedule]
