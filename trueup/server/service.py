"""What is served: an engine under a name, and the jobs that requests become within its limits."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trueup
from trueup.data.canonical import canonical
from trueup.decoding.compose import Chain, compose
from trueup.decoding.plain import PlainSearch
from trueup.decoding.protocol import Search
from trueup.files import content_hash
from trueup.models.language_model import LanguageModel
from trueup.models.reward import Reward, reward_identity
from trueup.models.sampling import Sampling
from trueup.server.batching import ContinuousBatch
from trueup.server.failures import ServerFailure
from trueup.server.jobs import Engine, Job
from trueup.server.limits import Limits
from trueup.server.metrics import Metrics
from trueup.server.prompts import LocalPrompts, Prepared, PromptReader, UpstreamPrompts
from trueup.server.protocol import Asked, ChatRequest, CompletionRequest
from trueup.server.searching import SearchBatches
from trueup.server.upstream import WORKERS, Upstream

COMPLETION_TOKENS = 16  # the protocol's own default for /v1/completions
_COLDEST = 1e-5  # a lower temperature is greedy: float32 could not hold its logits


@dataclass(frozen=True, kw_only=True)
class Service:
    """A model and a decoder as clients see them.

    Fields: name is the model's to clients; fingerprint tells weights and decoder apart;
            gives_logprobs says whether the engine's pieces have log-probabilities; while it is
            served, the model has to be `edited`.
    """

    name: str
    engine: Engine
    prompts: PromptReader
    fingerprint: str
    limits: Limits = field(default_factory=Limits)
    gives_logprobs: bool = False
    edited: Callable[[], AbstractContextManager[None]] = nullcontext
    metrics: Metrics = field(default_factory=Metrics)
    started: int = field(default_factory=lambda: int(time.time()))

    def chat_job(self, asked: ChatRequest) -> tuple[Job, int | None]:
        """The job of a chat and its prompt's tokens; raises ServerFailure where it cannot be."""
        if asked.top_logprobs is not None and not asked.logprobs:
            raise ServerFailure(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        messages = [message.plain() for message in asked.messages]
        return self._job(
            asked,
            [messages],
            n_tokens=asked.max_completion_tokens or asked.max_tokens,
            top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        )

    def completion_job(self, asked: CompletionRequest) -> tuple[Job, int | None]:
        """The job of a completion and its prompts' tokens, as `chat_job`."""
        return self._job(
            asked,
            asked.prompts(),
            n_tokens=asked.max_tokens or COMPLETION_TOKENS,
            top_logprobs=asked.logprobs,
        )

    def _job(
        self,
        asked: Asked,
        prompts: Sequence[Any],
        *,
        n_tokens: int | None,
        top_logprobs: int | None,
    ) -> tuple[Job, int | None]:
        """The job, once all that it asks for is found to be possible."""
        self._check(asked, len(prompts), n_tokens, top_logprobs)
        read = [self.prompts.read(prompt) for prompt in prompts]
        n = asked.n or 1
        n_tokens = self._room(read, n * len(read), n_tokens)
        temperature = 1.0 if asked.temperature is None else asked.temperature
        sampling = Sampling(
            n=n,
            max_new_tokens=n_tokens,
            temperature=temperature if temperature >= _COLDEST else 0.0,
            top_k=asked.top_k or 0,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            stop=asked.stops(),
            seed=secrets.randbits(31) if asked.seed is None else asked.seed % 2**63,
        )
        job = Job(
            prompts=[one.payload for one in read],
            sampling=sampling,
            tell=lambda _: None,
            has_seed=asked.seed is not None,
            top_logprobs=top_logprobs,
            is_streamed=bool(asked.stream),
        )
        counts = [one.n_tokens for one in read if one.n_tokens is not None]
        return job, sum(counts) if len(counts) == len(read) else None

    def _check(
        self, asked: Asked, n_prompts: int, n_tokens: int | None, top_logprobs: int | None
    ) -> None:
        """Raise ServerFailure for what no prompt could make right."""
        self.check_name(asked.model)
        n_choices = n_prompts * (asked.n or 1)
        if n_choices > self.limits.max_choices:
            most = self.limits.max_choices
            message = f"a request may have {most} choices in all, got {n_choices}; ask for fewer"
            raise ServerFailure(400, message, param="n")
        if n_tokens is not None and n_tokens > self.limits.max_new_tokens:
            message = f"max_tokens must be at most {self.limits.max_new_tokens}, got {n_tokens}"
            raise ServerFailure(400, message, param="max_tokens")
        if top_logprobs is not None and not self.gives_logprobs:
            message = "this decoder gives no log-probabilities; leave logprobs out"
            raise ServerFailure(400, message, param="logprobs")

    def check_name(self, model: str) -> None:
        """Raise ServerFailure where another model is asked for."""
        if model != self.name:
            message = f"no model {model[:200]!r} here; {self.name!r} is served"
            raise ServerFailure(404, message, code="model_not_found", param="model")

    def _room(self, read: Sequence[Prepared], n_choices: int, n_tokens: int | None) -> int:
        """The tokens that a choice may have; raises ServerFailure where the prompt leaves none."""
        longest = max(one.n_tokens or 0 for one in read)
        most = self.limits.max_batch_tokens // n_choices
        if self.prompts.context is not None:
            most = min(most, self.prompts.context)
        wanted = n_tokens or min(self.limits.default_new_tokens, most - longest)
        if longest + max(wanted, 1) > most:
            message = (
                f"the prompt has {longest} tokens and max_tokens is {max(wanted, 1)}, but there is "
                f"room for {most}; it is {longest + max(wanted, 1) - most} too many"
            )
            raise ServerFailure(400, message, code="context_length_exceeded", param="max_tokens")
        return wanted


def local_service(
    lm: LanguageModel,
    *,
    name: str,
    search: Search | None = None,
    rewards: Mapping[str, Reward] | None = None,
    limits: Limits | None = None,
) -> Service:
    """A model here: sampled in one continuous batch, or decoded by a search.

    Fields: search is a search or a chain of decoders; None samples. A chain that only prepares
            prompts and edits the model is sampled in the continuous batch as well.
    Raises: UserError where the search needs a reward and has none.
    """
    limits = limits or Limits()
    chain = compose(search or PlainSearch())
    chain.check_rewards(rewards or {})
    engine: Engine
    if chain.is_sampled:
        engine = ContinuousBatch(lm, limits)
    else:
        engine = SearchBatches(chain, chain.writer(lm), limits, rewards=rewards)
    return Service(
        name=name,
        engine=engine,
        prompts=LocalPrompts(lm, as_tokens=chain.is_sampled, chain=chain),
        fingerprint=f"{_fingerprint(chain, rewards)}-{lm.fingerprint[:12]}",
        limits=limits,
        gives_logprobs=chain.is_sampled,
        edited=partial(chain.applied, lm),
    )


def upstream_service(
    upstream: Upstream,
    *,
    search: Search | None = None,
    rewards: Mapping[str, Reward] | None = None,
    limits: Limits | None = None,
) -> Service:
    """A model behind another server: what needs no log-probabilities is applied here.

    Raises: UserError where the search needs them, or a reward and has none.
    """
    limits = limits or Limits()
    chain = compose(search or PlainSearch())
    chain.check_model(upstream)
    chain.check_rewards(rewards or {})
    return Service(
        name=upstream.name,
        engine=SearchBatches(
            chain, chain.writer(upstream), limits, rewards=rewards, workers=WORKERS
        ),
        prompts=UpstreamPrompts(),
        fingerprint=f"{_fingerprint(chain, rewards)}-upstream",
        limits=limits,
    )


def _fingerprint(chain: Chain, rewards: Mapping[str, Reward] | None) -> str:
    """The version, the decoder's name, and a hash of its settings and rewards where it has any."""
    judged = {name: reward_identity(each) for name, each in (rewards or {}).items()}
    told = {"settings": chain.settings(), "rewards": judged}
    has_more = any(chain.settings().values()) or bool(judged)
    more = f"-{content_hash(canonical(told))[:8]}" if has_more else ""
    return f"trueup-{trueup.__version__}-{chain.name}{more}"
