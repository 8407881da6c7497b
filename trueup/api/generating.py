"""`trueup.generate`: a decoder's completions for a file of prompts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueup.api.generation_job import Job, in_folder
from trueup.api.models import opened
from trueup.api.progress import Progress, ignored
from trueup.errors import UserError, build

if TYPE_CHECKING:
    from trueup.audits.protocol import Model
    from trueup.data import Table
    from trueup.decoding.compose import Chain
    from trueup.decoding.protocol import Decoder
    from trueup.decoding.rewards import RewardsGiven
    from trueup.models.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a model wrote.

    Fields: rows has one entry per completion, in the order of the prompts and the best first: id,
            prompt, text, reason ("eos", "stop" or "length"), n_tokens and logp (the sum of its
            tokens' log-probabilities under the model, in nats; both absent where a server tells
            no tokens), seed, settings; of a search also score and rewards, as it has them. folder
            is None where nothing was written.
    """

    model: str
    rows: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    folder: Path | None = None

    def __str__(self) -> str:
        return self.as_jsonl()

    def __repr__(self) -> str:
        return f"Generation({self.model!r}, {len(self.rows)} samples)"

    @property
    def texts(self) -> list[str]:
        """The samples' texts in the order of the prompts."""
        return [row["text"] for row in self.rows]

    def as_dict(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        own = [
            {key: row[key] for key in row if key not in ("settings", "seed")} for row in self.rows
        ]
        return {
            "schema": 1,
            "model": self.model,
            "settings": dict(self.settings),
            "samples": own,
            "out": self.folder,
        }

    def as_jsonl(self) -> str:
        """One JSON object per line and sample."""
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in self.rows)


def generate(
    model: "str | Path | Model",
    prompts: Any,
    *,
    out: str | Path | None = None,
    decoder: "str | Decoder | Sequence[Decoder] | None" = None,
    reward: "RewardsGiven" = None,
    n: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    heads: Mapping[str, float] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Generation:
    """The completions that a decoder finds for every prompt.

    Fields: model is a causal language model, or URL#NAME behind an endpoint for decoders that
            need no log-probabilities; prompts is a file or data set with the column `prompt` (or
            `messages`; for pine also docs and suffix), a text, or a list of texts. decoder is a
            name, several with + between them (`guide-align+deal`), or instances; None samples.
            reward scores prompts and completions: a callable, what `--reward` takes, or several
            by name. settings are the decoder's fields, as FIELD or `{"PART.FIELD": value}`.
            temperature 0 is greedy, top_k 0 and top_p 1 cut nothing off. out is the run folder to
            write, in it samples.jsonl and report.html; resume goes on with an unfinished one;
            heads mixes the output heads of a model trained for several objectives,
            {"honest": 0.7, ...}.
    Edges:  the same seed gives the same samples whatever the order of the prompts; a prompt that
            stands twice gets other samples the second time.
    Raises: UserError where a setting, a reward or the data is wrong or a prompt leaves no room.
    """
    from trueup.decoding.compose import compose
    from trueup.decoding.rewards import rewards_by_name
    from trueup.models.sampling import Sampling

    chain = compose(decoder or "sample", settings)
    rewards = rewards_by_name(reward)
    chain.check_rewards(rewards)
    sampling = Sampling(
        n=n,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=seed,
    )
    table = _table(prompts, chain.reads)
    writer: Any = opened(model, device=device, dtype=dtype, heads=heads)
    if not hasattr(writer, "sample"):
        raise UserError(f"{model} writes no text; give a causal language model or URL#NAME")
    chain.check_model(writer)
    job = Job(writer, table, sampling, chain=chain, rewards=rewards, heads=heads or {})
    job.check_room()
    if out is None:
        found = [row for rows, _ in job.sampled(set(), progress or ignored) for row in rows]
        return Generation(model=writer.name, rows=job.full(found), settings=job.settings())
    rows, folder = in_folder(job, Path(out), resume, progress or ignored)
    return Generation(model=writer.name, rows=rows, settings=job.settings(), folder=folder)


def chosen_decoding(decoder: str, settings: Mapping[str, Any]) -> "tuple[Chain, Sampling]":
    """The chain and the sampling that settings of both name; texts are read as the fields' types.

    A name that both have is the sampling's; the decoder's is PART.FIELD.
    Raises: UserError for an unknown one, or one that leaves its range.
    """
    from trueup.decoding.compose import compose
    from trueup.models.sampling import Sampling

    own = {field.name for field in fields(Sampling)}
    drawn = {name: value for name, value in settings.items() if name in own}
    sought = {name: value for name, value in settings.items() if name not in own}
    return compose(decoder, sought), build("sample", Sampling, drawn)


def _table(prompts: Any, contract: str) -> "Table":
    """The prompts as a validated table."""
    from trueup.data import read

    is_texts = isinstance(prompts, (list, tuple)) and all(isinstance(p, str) for p in prompts)
    if is_texts:
        prompts = [{"prompt": text} for text in prompts]
    return read(prompts, contract)
