"""`trueup serve MODEL`: an OpenAI-compatible server around a decoder."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trueup.cli import printing
from trueup.cli.options import (
    Decoder,
    Device,
    Dtype,
    Heads,
    Rewards,
    Settings,
    heads_of,
    settings_of,
)
from trueup.errors import UserError

if TYPE_CHECKING:
    from trueup.decoding.compose import Chain
    from trueup.models.reward import Reward
    from trueup.server.limits import Limits
    from trueup.server.service import Service

EXAMPLE = "Example: trueup serve my-model --decoder urial+best-of-n --reward words --port 8000"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("serve", epilog=EXAMPLE)(serve)


def serve(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A transformers or peft folder, or a hub id."),
    ] = None,
    decoder: Decoder = "sample",
    reward: Rewards = None,
    settings: Settings = None,
    upstream: Annotated[
        str | None,
        typer.Option(
            "--upstream",
            metavar="URL",
            help="Serve a model behind another server, URL or URL#NAME.",
        ),
    ] = None,
    upstream_key_env: Annotated[
        str,
        typer.Option(
            "--upstream-key-env", metavar="NAME", help="The variable with the upstream's key."
        ),
    ] = "OPENAI_API_KEY",
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The model's name to clients.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="All but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 is any free one.")
    ] = 8000,
    token_env: Annotated[
        str,
        typer.Option("--token-env", metavar="NAME", help="The variable with the clients' token."),
    ] = "TRUEUP_SERVE_TOKEN",
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", help="The longest answer.")
    ] = 4096,
    max_rows: Annotated[
        int, typer.Option("--max-rows", metavar="N", help="Answers that are written together.")
    ] = 256,
    max_batch_tokens: Annotated[
        int,
        typer.Option(
            "--max-batch-tokens", metavar="N", help="Rows times the longest; bounds the cache."
        ),
    ] = 2**17,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", metavar="N", help="Requests in the queue, then 429.")
    ] = 512,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", metavar="N", help="The longest request, then 503.")
    ] = 600.0,
    max_body_bytes: Annotated[
        int, typer.Option("--max-body-bytes", metavar="N", help="The largest body, then 413.")
    ] = 4 * 2**20,
    heads: Heads = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Serve a model with the OpenAI protocol until Ctrl-C, then finish what runs."""
    weights, fields = heads_of(heads), settings_of(settings)
    _check_extra()
    from trueup.server.auth import token_for
    from trueup.server.limits import Limits
    from trueup.server.running import serve as run

    token = token_for(host, token_env)  # before a model is loaded for minutes
    limits = Limits(
        max_new_tokens=max_new_tokens,
        default_new_tokens=min(Limits.default_new_tokens, max_new_tokens),
        max_choices=min(Limits.max_choices, max_rows),
        max_rows=max_rows,
        max_batch_tokens=max_batch_tokens,
        max_waiting=max_waiting,
        max_seconds=max_seconds,
        max_body_bytes=max_body_bytes,
    )
    with printing.working():
        chain, rewards = _decoding(decoder, fields, reward or ())
        if upstream is not None:
            if model is not None:
                raise UserError(f"give a MODEL or --upstream, not both, got {model!r}")
            service = _above(upstream, upstream_key_env, chain, rewards, limits)
        else:
            service = _here(model, name, chain, rewards, limits, device, dtype, weights)

    def announce(url: str) -> None:
        printing.note(f"{service.name} at {url}; Ctrl-C ends it")

    with service.edited():
        run(service, host=host, port=port, token=token, announce=announce)


def _check_extra() -> None:
    """Raise UserError where the extra is not installed."""
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UserError(f"serve needs {missing[0]}; install it with pip install 'trueup[serve]'")


def _decoding(
    decoder: str, settings: dict[str, str], sources: Sequence[str]
) -> "tuple[Chain, dict[str, Reward]]":
    """The chain of decoders, and the rewards that it aims at."""
    from trueup.decoding.compose import compose
    from trueup.decoding.rewards import rewards_by_name

    chain = compose(decoder, settings)
    rewards = rewards_by_name(sources)
    chain.check_rewards(rewards)
    return chain, rewards


def _here(
    model: str | None,
    name: str | None,
    chain: "Chain",
    rewards: "dict[str, Reward]",
    limits: "Limits",
    device: str,
    dtype: str,
    heads: dict[str, float],
) -> "Service":
    """A model on this machine."""
    from trueup.api.models import opened_causal
    from trueup.server.service import local_service

    if model is None:
        raise UserError("no MODEL; give a folder or a hub id, or --upstream URL")
    lm = opened_causal(model, device=device, dtype=dtype, heads=heads)
    folder = Path(model).resolve()
    shown = name or (folder.name if folder.is_dir() else model)
    return local_service(lm, name=shown, search=chain, rewards=rewards, limits=limits)


def _above(
    upstream: str, key_env: str, chain: "Chain", rewards: "dict[str, Reward]", limits: "Limits"
) -> "Service":
    """A model behind another server."""
    from trueup.server.service import upstream_service
    from trueup.server.upstream import Upstream, only_model

    url, _, model = upstream.partition("#")
    above = Upstream.at(
        url, model or only_model(url, key_env), api_key_env=key_env, timeout=limits.max_seconds
    )
    return upstream_service(above, search=chain, rewards=rewards, limits=limits)
