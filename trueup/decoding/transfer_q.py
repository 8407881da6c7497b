"""Transfer Q*: every next token is weighed by what an aligned model makes of it to the end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import scipy.special

from trueup.data.messages import Prompt
from trueup.decoding.beams import Beam
from trueup.decoding.protocol import Decoded, DecoderNeeds, Request
from trueup.decoding.rewards import Rewards, opened_reward, prompt_texts
from trueup.decoding.search_driver import Plan, search
from trueup.decoding.second_model import second_model
from trueup.decoding.token_choice import check_count, token_choice
from trueup.errors import UserError, check_at_least, check_choice, check_positive
from trueup.models.language_model import LanguageModel
from trueup.models.reward import Reward
from trueup.models.sampling import Sampling
from trueup.models.writer import Writer

Normaliser = Literal["self", "prompt", "none"]


@dataclass(frozen=True, kw_only=True)
class TransferQ:
    """Token-level policy tilted by an estimated action value, Q* transferred from a baseline.

    pi*(z | s) ~ pi(z | s) * exp(TQ(s, z) / alpha), over the top_k likeliest tokens of pi
    direct:    TQ = mean of r over the baseline's rollouts from (s, z)
    indirect:  TQ = sum_i w_i r_i / sum_i w_i,  w_i = exp((r_i - r_baseline_i) / beta)
    greedy takes the largest log pi + TQ / alpha; sample draws at the temperature.

    Fields: baseline is the aligned model that looks ahead, an object or where it lies, with the
            policy's tokenizer; None is the policy itself: controlled decoding. baseline_reward is
            what the baseline was aligned to, and beta the KL weight it was aligned with, in the
            rewards' unit: both are needed for indirect. lookahead in tokens, 0 is ARGS with weight
            1 / alpha. n_rollouts 1 is one greedy rollout; more are drawn at temperature 1.
            normaliser "self" is the formula above; "prompt" is mean w_i r_i * C_baseline / C with
            C = E exp(r / beta) over normaliser_samples completions of pi; "none" is mean w_i r_i,
            the authors' code with beta 2. weights mix several rewards.
    Cost:   1 forward pass per token, and at most top_k * n_rollouts * (1 + lookahead) of the
            baseline; top_k * n_rollouts rewards.
    Edges:  an ended candidate is scored as it is; with one rollout "self" corrects nothing.
    Raises: UserError where a field leaves its range or is missing, n is above 1 for greedy, or as
            `Search.decode` says.
    Source: Chakraborty et al. 2024, arXiv 2405.20495. The authors' code proposes with the aligned
            model and knows no normaliser; "self" is the conditional expectation.
    """

    baseline: LanguageModel | str | None = None
    baseline_reward: Reward | str | None = None
    mode: Literal["direct", "indirect"] = "direct"
    normaliser: Normaliser = "self"
    alpha: float = 1.0
    beta: float | None = None
    top_k: int = 10
    lookahead: int = 32
    n_rollouts: int = 1
    sample: Literal["greedy", "sample"] = "greedy"
    temperature: float = 1.0
    weights: Mapping[str, float] | tuple[float, ...] | None = None
    normaliser_samples: int = 32
    name: ClassVar[str] = "transfer-q"
    role: ClassVar[Literal["search"]] = "search"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(rewards=1, white_box=True, models=("baseline",))
    arxiv: ClassVar[str] = "2405.20495"

    def __post_init__(self) -> None:
        check_choice(("direct", "indirect"), mode=self.mode)
        check_choice(("self", "prompt", "none"), normaliser=self.normaliser)
        check_choice(("greedy", "sample"), sample=self.sample)
        check_positive(alpha=self.alpha, temperature=self.temperature)
        check_at_least(0, lookahead=self.lookahead)
        check_at_least(
            1,
            top_k=self.top_k,
            n_rollouts=self.n_rollouts,
            normaliser_samples=self.normaliser_samples,
        )
        if self.beta is not None:
            check_positive(beta=self.beta)
        if self.mode == "indirect" and (self.beta is None or self.baseline_reward is None):
            missing = "beta" if self.beta is None else "baseline_reward"
            raise UserError(f"{missing} is needed for mode=indirect, got None; say what it was")

    def decode(
        self, lm: Writer, prompts: Sequence[Prompt], request: Request
    ) -> list[list[Decoded]]:
        """One completion of every prompt, or as many draws as are asked for."""
        assert isinstance(lm, LanguageModel)
        check_count(request.sampling.n, self.sample)
        texts = prompt_texts(lm, prompts, request.asked)
        rewards = Rewards(request.rewards, self.weights, texts)
        aligned_to = None
        if self.mode == "indirect" and self.baseline_reward is not None:
            own = {"baseline_reward": opened_reward(self.baseline_reward)}
            aligned_to = Rewards(own, None, texts)
        constants = self._constants(lm, prompts, rewards, aligned_to, request.sampling)
        plan = Plan(
            top_k=self.top_k,
            lookahead=self.lookahead,
            rollouts=self.n_rollouts,
            roller=self._roller(lm),
            judge=lambda children: self._judged(rewards, aligned_to, constants, children),
            keep=token_choice(self.sample, self.temperature),
            searches=request.sampling.n,
        )
        return search(lm, prompts, plan, request.sampling)

    def _roller(self, lm: LanguageModel) -> LanguageModel:
        """The model that looks ahead."""
        return lm if self.baseline is None else second_model(self.baseline, lm, field="baseline")

    def _judged(
        self,
        rewards: Rewards,
        aligned_to: Rewards | None,
        constants: Sequence[float],
        children: Sequence[Beam],
    ) -> list[Beam]:
        """The children with TQ and the score of their last token."""
        places = [beam.prompt for beam in children for _ in beam.texts]
        texts = [text for beam in children for text in beam.texts]
        parts = rewards.parts(places, texts)
        totals = np.array([rewards.total(part) for part in parts])
        baselines = totals if aligned_to is None else np.array(aligned_to.totals(places, texts))
        judged, start = [], 0
        for beam in children:
            end = start + len(beam.texts)
            own = totals[None, start:end], baselines[None, start:end]
            value = own[0].mean()
            notes = {}
            if self.mode == "indirect":
                assert self.beta is not None
                constant = constants[beam.prompt]
                value = transfer_q_value(*own, self.beta, self.normaliser, constant)[0]
                notes["effective_samples"] = float(effective_samples(*own, self.beta)[0])
            means = {name: _mean(parts[start:end], name) for name in rewards.weights}
            judged.append(
                replace(
                    beam,
                    value=float(value),
                    score=beam.logps[-1] + float(value) / self.alpha,
                    parts=means,
                    notes=notes,
                )
            )
            start = end
        return judged

    def _constants(
        self,
        lm: LanguageModel,
        prompts: Sequence[Prompt],
        rewards: Rewards,
        aligned_to: Rewards | None,
        sampling: Sampling,
    ) -> list[float]:
        """How log C_baseline exceeds log C, for every prompt; 0 where the normaliser has none."""
        if aligned_to is None or self.normaliser != "prompt":
            return [0.0] * len(prompts)
        samples = lm.sample(
            prompts,
            n=self.normaliser_samples,
            max_new_tokens=sampling.max_new_tokens,
            stop=sampling.stop,
            seed=sampling.seed,
        )
        found = []
        for place, several in enumerate(samples):
            texts = [sample.text for sample in several]
            own = [place] * len(texts)
            assert self.beta is not None
            logs = [
                scipy.special.logsumexp(np.array(scorer.totals(own, texts)) / self.beta)
                for scorer in (aligned_to, rewards)
            ]
            found.append(float(logs[0] - logs[1]))
        return found


def transfer_q_value(
    rewards: np.ndarray,
    baseline_rewards: np.ndarray,
    beta: float,
    normaliser: Normaliser = "self",
    log_constants: float = 0.0,
) -> np.ndarray:
    """The indirect action value of k candidates from n rollouts each; symbols as in `TransferQ`.

    Shapes: rewards and baseline_rewards [k, n], found [k].
    Fields: log_constants is log C_baseline - log C, for the normaliser "prompt".
    """
    tilt = (rewards - baseline_rewards) / beta
    if normaliser == "self":
        found: np.ndarray = (scipy.special.softmax(tilt, axis=1) * rewards).sum(axis=1)
        return found
    shift = log_constants if normaliser == "prompt" else 0.0
    means: np.ndarray = (np.exp(tilt + shift) * rewards).mean(axis=1)
    return means


def effective_samples(rewards: np.ndarray, baseline_rewards: np.ndarray, beta: float) -> np.ndarray:
    """(sum w)^2 / sum w^2 of each candidate's rollouts, [k, n] in, [k] out: 1 to n."""
    weights = scipy.special.softmax((rewards - baseline_rewards) / beta, axis=1)
    found: np.ndarray = 1 / (weights**2).sum(axis=1)
    return found


def token_policy(logps: np.ndarray, values: np.ndarray, alpha: float) -> np.ndarray:
    """pi*(z | s) over the candidates: log pi and TQ [k] in, probabilities [k] out."""
    found: np.ndarray = scipy.special.softmax(logps + values / alpha)
    return found


def _mean(parts: Sequence[Mapping[str, float]], name: str) -> float:
    return math.fsum(part[name] for part in parts) / len(parts)
