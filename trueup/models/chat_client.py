"""One request to a chat server: sent, retried with back-off, its failures told in one line."""

import email.utils
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import tenacity

from trueup.data.canonical import one_line
from trueup.errors import TrueupError, UserError
from trueup.models.api_key import ApiKey, without_keys

logger = logging.getLogger("trueup")

_PASSING_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
_LONGEST_WAIT_SECONDS = 60.0
_LONGEST_ASKED_WAIT_SECONDS = 300.0  # a server that asks for more has closed for the day
_SHOWN_CHARACTERS = 240


@dataclass(frozen=True)
class Failure:
    """Why a request got no answer.

    Fields: status is 0 where the server said nothing; passing failures are worth another try,
            after `wait` seconds where the server said so.
    """

    what: str
    status: int = 0
    is_passing: bool = False
    wait: float | None = None


class ChatClient:
    """Sends JSON to one server; threads may share it.

    Nothing is raised while the request's objects are at hand, so no traceback can show the key.
    """

    def __init__(
        self, url: str, key: ApiKey, *, timeout: float, retries: int, backoff: float, limit: int
    ) -> None:
        self.url = url
        self.key = key
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        host = httpx2.URL(url).host
        self._http = httpx2.Client(
            auth=key,
            timeout=httpx2.Timeout(timeout, pool=None),
            limits=httpx2.Limits(max_connections=limit, max_keepalive_connections=limit),
            # no proxy stands between this machine and itself
            trust_env=host not in ("localhost", "127.0.0.1", "::1"),
        )
        self.close = self._http.close

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        before: Callable[[], None],
        stop: threading.Event,
    ) -> Mapping[str, Any] | Failure:
        """The server's reply as JSON, or the last failure.

        Fields: `before` runs ahead of every attempt and may refuse it by raising; once `stop` is
                set nothing is tried again and nobody waits.
        """
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.retries + 1),
            wait=self._wait,
            sleep=tenacity.sleep_using_event(stop),
            retry=tenacity.retry_if_result(
                lambda reply: isinstance(reply, Failure) and reply.is_passing and not stop.is_set()
            ),
            retry_error_callback=_last,
        )
        return retrying(self._attempt, path, body, before)

    def error(self, failure: Failure, model: str) -> TrueupError:
        """The failure as one line with what the user can do about it."""
        status, said = failure.status, failure.what
        if status in (401, 403):
            name = self.key.variable
            mend = f"; set {name}" if name else ""
            sent = "the key is refused" if self.key.is_set() else f"no key was sent{mend}"
            mend = f"; check {name}" if self.key.is_set() else ""
            return UserError(f"{self.url}: {status}, {sent} ({said}){mend}")
        if status == 404:
            return UserError(
                f"{self.url}: 404 for model {model!r} ({said}); "
                "check the model's name, and the URL, which ends in /v1 for most servers"
            )
        if 400 <= status < 500 and not failure.is_passing:
            return UserError(f"{self.url}: {status}, the request is refused ({said})")
        tries = f" after {self.retries + 1} attempts" if failure.is_passing else ""
        code = f"{status} " if status else ""
        return TrueupError(f"{self.url}: no answer{tries}: {code}{said}; what was answered is kept")

    def _attempt(
        self, path: str, body: Mapping[str, Any], before: Callable[[], None]
    ) -> Mapping[str, Any] | Failure:
        before()
        failure = None
        try:
            response = self._http.post(f"{self.url}{path}", json=body)
        except httpx2.TimeoutException:
            failure = Failure(f"no reply within {self.timeout:g} s", is_passing=True)
        except httpx2.HTTPError as error:
            what = self._clean(f"{type(error).__name__}: {error}")
            failure = Failure(what, is_passing=isinstance(error, httpx2.TransportError))
        return failure or self._read(response)

    def _read(self, response: httpx2.Response) -> Mapping[str, Any] | Failure:
        if response.is_success:
            try:
                reply = json.loads(response.content)
            except (ValueError, RecursionError):
                reply = None
            if isinstance(reply, dict):
                cleaned: dict[str, Any] = self.key.removed_from(reply)
                return cleaned
            return Failure(f"the reply is no JSON object, got {self._clean(response.text)!r}")
        status = response.status_code
        if response.is_redirect:
            target = self._clean(response.headers.get("location", "nowhere"))
            return Failure(f"it has moved; give the new URL, {target}", status)
        wait = _asked_wait(response.headers)
        said = self._clean(_message(response))
        if wait is not None and wait > _LONGEST_ASKED_WAIT_SECONDS:
            return Failure(f"{said}; the server asks to wait {wait:.0f} s", status)
        passing = status in _PASSING_STATUSES and "insufficient_quota" not in response.text
        return Failure(said, status, is_passing=passing, wait=wait)

    def _clean(self, text: str) -> str:
        """A stranger's text on one line, shortened, without keys."""
        return one_line(without_keys(self.key.removed_from(text)), _SHOWN_CHARACTERS)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """What the server asked for, else twice as long each time; jitter parts the threads.

        wait = min(60, backoff * 2^(attempt - 1)) + uniform(0, backoff)
        """
        reply = state.outcome.result() if state.outcome else None
        jitter = tenacity.wait_random(0, self.backoff)(state)
        if isinstance(reply, Failure) and reply.wait is not None:
            wait = reply.wait
        else:
            exponential = tenacity.wait_exponential(self.backoff, max=_LONGEST_WAIT_SECONDS)
            wait = exponential(state)
        what = reply.what if isinstance(reply, Failure) else ""
        logger.info("%s: %s; trying again in %.1f s", self.url, what, wait + jitter)
        return wait + jitter


def _last(state: tenacity.RetryCallState) -> Any:
    """The last attempt's failure, for when no attempt is left."""
    return state.outcome.result() if state.outcome else None


def _message(response: httpx2.Response) -> str:
    """What the server says is wrong, wherever it says it."""
    try:
        reply = json.loads(response.content)
    except (ValueError, RecursionError):
        reply = None
    found = reply
    if isinstance(reply, dict):
        found = next(
            (reply[name] for name in ("error", "message", "detail") if reply.get(name)), ""
        )
    if isinstance(found, dict):
        found = found.get("message") or json.dumps(found)
    text = found if isinstance(found, str) else response.text
    return text.strip() or response.reason_phrase or "without a word"


def _asked_wait(headers: httpx2.Headers) -> float | None:
    """The seconds of a Retry-After header, which holds a number or a date."""
    asked = headers.get("retry-after")
    if asked is None:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
