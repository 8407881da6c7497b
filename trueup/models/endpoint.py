"""Black-box chat models behind any server that speaks the OpenAI protocol."""

import json
import math
import re
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from trueup.data.canonical import canonical, escaped, shown
from trueup.data.messages import BadValue, Message, checked_messages
from trueup.errors import TrueupError, UserError, check_at_least, check_positive
from trueup.files import cache_folder, content_hash
from trueup.models.answer_cache import AnswerCache
from trueup.models.api_key import ApiKey
from trueup.models.chat_budget import Budget, BudgetSpent, EndpointWork
from trueup.models.chat_client import ChatClient, Failure
from trueup.models.chat_protocol import Answer, ChatSettings, Usage, read_reply
from trueup.models.encoding import Prompt
from trueup.models.text_endpoint import TextEndpoint

# Part of every cache key: raise it when the same call would ask or read something else than before.
_PROTOCOL_VERSION = 1
_CACHE_FILE = "answers.sqlite"
_FRAME_TOKENS = 16  # more than any template puts around one message


def connect(
    url: str,
    model: str,
    *,
    api_key_env: str = "OPENAI_API_KEY",
    system: str | None = None,
    cache: bool | Path = True,
    max_calls: int | None = None,
    max_cost: float | None = None,
    prices: tuple[float, float] | None = None,
    max_concurrency: int = 8,
    timeout: float = 60.0,
    retries: int = 5,
    backoff: float = 0.5,
    extra: Mapping[str, Any] | None = None,
) -> "Endpoint":
    """Make a chat model of a server's URL, `http://localhost:8000/v1` for example, and a name.

    Fields: api_key_env names the environment variable that holds the key, "" sends none; system
            is put before every prompt that has no system turn of its own; cache True keeps answers
            in the user's cache folder, a path keeps them there, False nowhere; max_calls counts
            requests with their repetitions; max_cost needs prices per million tokens of prompt and
            completion, and is never passed as far as the server's counts are right; timeout and
            backoff are in seconds; extra are further fields for every request, as the server
            names them.
    Raises: UserError where one of them cannot be.
    """
    check_at_least(1, max_concurrency=max_concurrency)
    check_at_least(0, retries=retries, backoff=backoff)
    check_positive(timeout=timeout)
    if max_cost is not None and prices is None:
        raise UserError(
            f"max_cost={max_cost:g} needs prices; give (prompt, completion) per million"
        )
    if not model:
        raise UserError("the model has no name; give the one that the server knows")
    settings = ChatSettings(extra=dict(extra or {}))
    try:
        canonical({"model": model, "system": system, "extra": settings.extra})
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"model, system and extra must be plain data ({error})") from error
    return Endpoint(
        url=_checked_url(url),
        model=model,
        system=system,
        extra=settings.extra,
        key=ApiKey(api_key_env),
        cache=_answer_cache(cache),
        budget=Budget(max_calls, max_cost, prices),
        max_concurrency=max_concurrency,
        timeout=timeout,
        retries=retries,
        backoff=backoff,
    )


def _checked_url(url: str) -> str:
    """The URL without a slash at its end; one that could carry a secret is refused."""
    try:
        parsed = httpx2.URL(url.strip())
    except (httpx2.InvalidURL, TypeError, AttributeError) as error:
        raise UserError(f"the endpoint's URL cannot be read, got {shown(url)}") from error
    if parsed.userinfo or parsed.query or parsed.fragment:
        bare = escaped(str(parsed.copy_with(userinfo=b"", query=None, fragment=None)))
        raise UserError(
            f"{bare}: an endpoint's URL holds no user, query or fragment; "
            "keys come from the environment"
        )
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"the endpoint's URL must begin with http:// or https://, got {shown(url)}")
    return str(parsed).rstrip("/")


def _answer_cache(cache: bool | Path) -> AnswerCache | None:
    if cache is False:
        return None
    place = cache_folder() / "answers" if cache is True else Path(cache)
    return AnswerCache(place if place.suffix in (".sqlite", ".db") else place / _CACHE_FILE)


class Endpoint:
    """A chat model that can be asked but not looked into; made by `connect`.

    Answers are cached by everything that shapes them: URL, model, messages, settings, seed, and
    the sample's number. The same prompt twice in one call is asked once; for several samples of a
    prompt there is `n`. Threads may share an endpoint.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        system: str | None,
        extra: Mapping[str, Any],
        key: ApiKey,
        cache: AnswerCache | None,
        budget: Budget,
        max_concurrency: int,
        timeout: float,
        retries: int,
        backoff: float,
    ) -> None:
        self.url = url
        self.model = model
        self.system = system
        self.extra = extra
        self.cache = cache
        self.max_concurrency = max_concurrency
        self._key = key
        self._budget = budget
        self._served_by = ""
        self._dialect = _Dialect()
        self._client = ChatClient(
            url, key, timeout=timeout, retries=retries, backoff=backoff, limit=max_concurrency
        )
        self._closing = weakref.finalize(self, self._client.close)

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.model!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; without it they close when the endpoint is forgotten."""
        self._closing()

    @property
    def name(self) -> str:
        """The model's name, as the server knows it."""
        return self.model

    @property
    def work(self) -> EndpointWork:
        """What was asked so far: calls, tokens, cost, and answers that came from the cache."""
        return self._budget.work

    @property
    def fingerprint(self) -> str:
        """A hash of URL, name, system prompt, extra fields and what the server says it runs.

        Edges: the server says so with its answers only, so the hash is another one before the
               first answer than after it.
        """
        identity = {"url": self.url, "model": self.model, "system": self.system}
        return content_hash(canonical({**identity, "extra": self.extra, "by": self._served_by}))

    def chat(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        max_tokens: int = 64,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int | None = 0,
        logprobs: bool = False,
        top_logprobs: int = 0,
    ) -> list[list[Answer]]:
        """Ask every prompt `n` times; answers in the order of the prompts.

        Fields: a prompt is the user's text, or messages; seed None sends none, for servers that
                refuse it; top_logprobs asks for so many of the likeliest tokens, too.
        Edges:  when one request fails for good, those under way end and are cached, the rest is
                not sent.
        Raises: UserError where the server refuses; BudgetSpent at max_calls or max_cost;
                TrueupError where it gives no answer after all attempts.
        """
        settings = ChatSettings(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=_stops(stop),
            seed=seed,
            top_logprobs=top_logprobs if logprobs or top_logprobs else None,
            extra=self.extra,
        )
        asked = [
            _Question(self._messages(number, prompt), settings)
            for number, prompt in enumerate(prompts, start=1)
        ]
        return self._answered(asked, n)

    def complete(
        self,
        prompts: Sequence[str],
        *,
        n: int = 1,
        max_tokens: int = 64,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int | None = 0,
    ) -> list[list[Answer]]:
        """Have texts gone on with, as they are: no turns, no template; else as `chat`.

        Raises: UserError also for a prompt that is no text.
        """
        settings = ChatSettings(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=_stops(stop),
            seed=seed,
            extra=self.extra,
        )
        for number, prompt in enumerate(prompts, start=1):
            if not isinstance(prompt, str) or not prompt:
                raise UserError(f"prompt {number}: must be some text, got {prompt!r:.60}")
        return self._answered([_Question(prompt, settings) for prompt in prompts], n)

    def completing(self) -> TextEndpoint:
        """The same server as a writer that goes on with texts, in place of answering turns."""
        return TextEndpoint(self)

    def _answered(self, asked: "Sequence[_Question]", n: int) -> list[list[Answer]]:
        """The answers of every question, from the cache or the server."""
        check_at_least(1, n=n)
        questions = {question.key: question for question in asked}
        found = self._cached(questions.values(), n)
        self._budget.served_from_cache(len(found))
        self._note_server(found.values())
        missing = {
            key: [index for index in range(n) if (key, index) not in found] for key in questions
        }
        found.update(
            self._ask_all([(questions[key], gaps) for key, gaps in missing.items() if gaps])
        )
        return [[found[question.key, index] for index in range(n)] for question in asked]

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[list[Answer]]:
        """`chat` under the words of `LanguageModel.sample`; answers have text, reason and no ids.

        Raises: UserError for a top_k, which the protocol has no field for.
        """
        if top_k:
            raise UserError(
                f"{self.url}: the chat protocol has no top_k, got {top_k}; "
                "give connect(extra={'top_k': ...}) if the server knows it"
            )
        return self.chat(
            prompts,
            n=n,
            max_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            stop=stop,
            seed=seed,
        )

    def _messages(self, number: int, prompt: Prompt) -> list[Message]:
        """The prompt as the request's messages, behind the endpoint's own system turn."""
        given = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        try:
            messages = checked_messages("messages", given)
            canonical({"messages": messages})
        except (BadValue, UnicodeEncodeError) as error:
            what = str(error) if isinstance(error, BadValue) else "is not valid Unicode"
            raise UserError(f"prompt {number}: {what}") from error
        if self.system is None or any(turn["role"] == "system" for turn in messages):
            return messages
        return [{"role": "system", "content": self.system}, *messages]

    def _cached(self, questions: "Iterable[_Question]", n: int) -> "dict[tuple[str, int], Answer]":
        """The answers that the cache holds, by question and sample."""
        if self.cache is None:
            return {}
        places = {
            self._cache_key(question, index): (question.key, index)
            for question in questions
            for index in range(n)
        }
        try:
            kept = self.cache.get(list(places))
            return {places[key]: Answer.from_cache(answer) for key, answer in kept.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.cache.path}: the answer cache is damaged ({type(error).__name__}); "
                "move it away and run again"
            ) from error

    def _cache_key(self, question: "_Question", index: int) -> str:
        """The hash of everything that could change the answer, and of nothing secret."""
        identity = {
            "version": _PROTOCOL_VERSION,
            "url": self.url,
            "model": self.model,
            "question": question.key,
            "sample": index,
        }
        return content_hash(canonical(identity))

    def _ask_all(
        self, gaps: "list[tuple[_Question, list[int]]]"
    ) -> "dict[tuple[str, int], Answer]":
        """Ask for the missing samples, several questions at once."""
        found: dict[tuple[str, int], Answer] = {}
        if not gaps:
            return found
        self._key.check()
        stop = threading.Event()
        with ThreadPoolExecutor(min(self.max_concurrency, len(gaps))) as pool:
            futures = [pool.submit(self._ask, question, gap, stop) for question, gap in gaps]
            try:
                for future in as_completed(futures):
                    found.update(future.result())
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return found

    def _ask(
        self, question: "_Question", indices: list[int], stop: threading.Event
    ) -> "dict[tuple[str, int], Answer]":
        """Ask for these samples of one question, in as many requests as the server needs."""
        found: dict[tuple[str, int], Answer] = {}
        try:
            while indices and not stop.is_set():
                answers = self._request(question, indices, stop)[: len(indices)]
                fresh = dict(zip(indices, answers, strict=False))
                indices = indices[len(answers) :]  # some servers send fewer than asked for
                self._keep(question, fresh)
                found.update({(question.key, index): fresh[index] for index in fresh})
        except BaseException:
            stop.set()  # here and not by who waits, so that this thread starts nothing else
            raise
        return found

    def _keep(self, question: "_Question", fresh: Mapping[int, Answer]) -> None:
        """Note the server and put its answers into the cache."""
        self._note_server(fresh.values())
        if self.cache is not None:
            kept = {self._cache_key(question, i): answer.as_dict() for i, answer in fresh.items()}
            self.cache.put(kept)

    def _request(
        self, question: "_Question", indices: list[int], stop: threading.Event
    ) -> list[Answer]:
        """One request and its answers, said again where the server speaks another dialect."""
        while True:
            dialect = self._dialect
            count = len(indices) if dialect.has_n else 1
            body = question.settings.body(
                self.model,
                question.asked,
                first=indices[0],
                n=count,
                limit_field=dialect.limit_field,
            )
            try:
                with self._budget.reserved(_most(question, count)):
                    reply = self._client.post(
                        question.path, body, before=self._budget.call, stop=stop
                    )
                    if not isinstance(reply, Failure):
                        return self._answers(reply, question.settings)
            except BudgetSpent as error:
                kept = (
                    "cached answers are kept"
                    if self.cache is not None
                    else "there is no cache of answers"
                )
                raise BudgetSpent(f"{self.url}: {error} ({kept})") from error
            if self._dialect is dialect:  # else another thread has learned something: try again
                self._dialect = self._other_dialect(dialect, reply, count)

    def _other_dialect(self, dialect: "_Dialect", failure: Failure, count: int) -> "_Dialect":
        """The dialect that the refusal points to.

        Raises: UserError or TrueupError where the failure is about something else.
        """
        other = dialect.after(failure, count)
        if other is None:
            raise self._client.error(failure, self.model)
        return other

    def _answers(self, reply: Mapping[str, Any], settings: ChatSettings) -> list[Answer]:
        """The answers of a reply, whose tokens are counted."""
        what = "it holds no answer"
        try:
            answers, usage = read_reply(reply, settings)
        except ValueError as error:
            answers, usage, what = [], Usage(), str(error)
        self._budget.used(usage)
        if not answers:
            raise TrueupError(
                f"{self.url}: the reply does not follow the chat protocol ({escaped(what)}), "
                f"got {shown(json.dumps(reply), 120)}"
            )
        return answers

    def _note_server(self, answers: Iterable[Answer]) -> None:
        """Remember what the server last said it runs."""
        for answer in answers:
            self._served_by = answer.served_by or self._served_by


class _Question:
    """Messages, or a text to go on with, their settings, and the hash of both."""

    def __init__(self, asked: list[Message] | str, settings: ChatSettings) -> None:
        self.asked = asked
        self.settings = settings
        self.path = "/completions" if isinstance(asked, str) else "/chat/completions"
        kind = "prompt" if isinstance(asked, str) else "messages"
        self.key = content_hash(canonical({kind: asked, **settings.as_dict()}))


@dataclass(frozen=True)
class _Dialect:
    """Where servers differ: the name of max_tokens, and whether one request may ask for several.

    Neither changes an answer, so neither is part of a cache key.
    """

    limit_field: str = "max_tokens"
    has_n: bool = True

    def after(self, failure: Failure, count: int) -> "_Dialect | None":
        """The dialect that a refusal points to, None where it is about something else."""
        if failure.status not in (400, 422):
            return None
        if self.limit_field == "max_tokens" and "max_completion_tokens" in failure.what:
            return replace(self, limit_field="max_completion_tokens")
        if self.has_n and count > 1 and re.search(r"\bn\b", failure.what):
            return replace(self, has_n=False)
        return None


def _most(question: _Question, count: int) -> Usage:
    """The most tokens that a request can use: no token is shorter than a byte."""
    asked = question.asked
    turns = [{"content": asked}] if isinstance(asked, str) else asked
    text = sum(len(canonical(turn)) + _FRAME_TOKENS for turn in turns)
    return Usage(math.ceil(text), count * question.settings.max_tokens)


def _stops(stop: str | Sequence[str]) -> tuple[str, ...]:
    """One stop string or several."""
    return (stop,) if isinstance(stop, str) else tuple(stop)
