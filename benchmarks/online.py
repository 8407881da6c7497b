"""Samples per second of online training: our f-DPG and GRPO against TRL's GRPOTrainer, in one run.

The same random model and prompts, float32, same threads, AdamW, learning rate and clipping; every
side draws the same number of samples of the same length (none ends early) and takes the same
number of updates, with the KL to the reference at work. Time runs from the first sample to the last
update; loading and saving are left out. Random samples cannot be equal; that our GRPO loss is
TRL's is proven in tests/proofs/test_grpo.py, and here the mean reward of the first round's samples
is asserted to be the same within five standard errors.

    python benchmarks/online.py --json
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _setup import HH, make_model, make_tokenizer, pairs, show

from trueup.models import LanguageModel
from trueup.objectives import objective
from trueup.training import TrainingConfig, train

RATE = 1e-5
BETA = 0.04


def main() -> None:
    """Train with all sides, print a row per objective of ours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=4, help="prompts per update")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, default=HH if HH.is_file() else None)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, source = pairs(arguments.data, arguments.prompts * arguments.updates)
    tokenizer = make_tokenizer([row["prompt"] + row["chosen"] for row in rows])
    tokenizer.eos_token = "<pad>"  # which no model here likes: samples run to their full length
    prompts = [{"prompt": row["prompt"]} for row in rows]
    model = make_model(arguments.vocab_size, arguments.hidden, arguments.layers)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = -1.0
    theirs, their_rewards = run_trl(model, tokenizer, prompts, arguments)
    count = len(prompts) * arguments.samples
    table = []
    for name in ("f-dpg", "grpo"):
        ours, our_rewards, tokens = run_ours(name, model, tokenizer, prompts, arguments)
        gap = abs(our_rewards.mean() - their_rewards.mean())
        error = np.sqrt(
            our_rewards.var() / len(our_rewards) + their_rewards.var() / len(their_rewards)
        )
        assert gap < 5 * error, f"the sides do not sample alike: {gap} apart, error {error}"
        table.append(
            {
                "what": f"{name}: {arguments.updates} updates on {arguments.prompts} prompts x "
                f"{arguments.samples} samples x {arguments.tokens} tokens, {arguments.hidden} x "
                f"{arguments.layers} Llama, float32, {arguments.threads} threads",
                "data": source,
                "n_samples": count,
                "ours_seconds": ours,
                "peer_seconds": theirs,
                "ours_samples_per_s": count / ours,
                "peer_samples_per_s": count / theirs,
                "ratio": theirs / ours,
                "ours_mean_reward": float(our_rewards.mean()),
                "peer_mean_reward": float(their_rewards.mean()),
                "ours_trunk_tokens": tokens,
            }
        )
    show(table, arguments.json)


def reward(prompts: Any, completions: Any, **_: Any) -> list[float]:
    """The share of letters that are vowels."""
    return [
        sum(letter in "aeiou" for letter in text.lower()) / max(1, len(text))
        for text in completions
    ]


def run_ours(
    name: str, model: Any, tokenizer: Any, prompts: list[dict[str, str]], arguments: Any
) -> tuple[float, np.ndarray, int]:
    """Seconds, the first round's rewards, trunk tokens."""
    config = TrainingConfig(
        batch_size=arguments.prompts,
        max_new_tokens=arguments.tokens,
        learning_rate=RATE,
        schedule="constant",
        warmup=0.0,
        shuffle=False,
        save_every=0,
    )
    moments: list[float] = []
    settings = {"samples": arguments.samples} | ({"beta": BETA} if name == "grpo" else {})
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            LanguageModel(model, tokenizer, name="bench"),
            objective(name, settings),
            prompts,
            config=config,
            out=Path(folder) / "out",
            reward=reward,
            progress=lambda told: moments.append(time.perf_counter()),
        )
    first = result.items[result.items["round"] == 1]["reward"].to_numpy()
    return moments[-1] - moments[0], first, result.work.trunk_tokens


def run_trl(
    model: Any, tokenizer: Any, prompts: list[dict[str, str]], arguments: Any
) -> tuple[float, np.ndarray]:
    """TRL's GRPOTrainer: seconds, the first step's rewards."""
    warnings.simplefilter("ignore")
    import datasets
    import transformers
    import trl

    found: list[list[float]] = []
    moments: list[float] = []

    def rewarded(prompts: Any, completions: Any, **rest: Any) -> list[float]:
        found.append(reward(prompts, completions))
        return found[-1]

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            moments.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        config = trl.GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=arguments.prompts * arguments.samples,
            num_generations=arguments.samples,
            max_completion_length=arguments.tokens,
            max_steps=arguments.updates,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            warmup_steps=0,
            weight_decay=0.0,
            max_grad_norm=1.0,
            optim="adamw_torch",
            beta=BETA,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            bf16=False,
            fp16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        start = Path(folder) / "start"  # the trainer loads its reference from there
        model.save_pretrained(start)
        trainer = trl.GRPOTrainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(start),
            reward_funcs=rewarded,
            args=config,
            train_dataset=datasets.Dataset.from_list(prompts),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    assert sum(map(len, found)) == len(prompts) * arguments.samples
    return moments[-1] - moments[0], np.array(found[0])


if __name__ == "__main__":
    main()
