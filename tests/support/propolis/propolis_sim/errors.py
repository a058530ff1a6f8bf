"""The ways in which something can be refused."""

import http
import os
import resource
import sys
from typing import NoReturn


class HttpError(Exception):
    """What dropshot answers: `message` goes to the client, `internal` only to the log."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        internal: str | None = None,
        headers: list[tuple[str, str]] | None = None,
    ) -> None:
        super().__init__(internal or message)
        self.status = status
        self.message = message
        self.code = code
        self.internal = internal or message
        self.headers = headers or []


def bad_request(message: str, code: str | None = None) -> HttpError:
    return HttpError(400, message, code)


def with_reason_phrase(status: int, code: str | None, internal: str | None = None) -> HttpError:
    """A refusal whose message is only the status' standard phrase."""
    return HttpError(status, http.HTTPStatus(status).phrase, code, internal or code)


def internal_error(message: str) -> HttpError:
    """The client learns nothing but the status; the reason is in the log alone."""
    return with_reason_phrase(500, "Internal", message)


def not_created() -> HttpError:
    return HttpError(424, "Server not initialized (no instance)", "NoInstance")


class SpecError(Exception):
    """An instance spec that is well-formed but makes no machine."""


class InitError(Exception):
    """A machine that cannot be made on this host."""


def panic(message: str) -> NoReturn:
    """propolis-server is built to abort when it panics: no answer, no clean-up, SIGABRT."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.flush()
    print(f"thread 'tokio-rt-api' panicked:\n{message}", file=sys.stderr, flush=True)
    os.abort()
