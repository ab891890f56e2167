"""Sessions of requests for SDKs built on it: two retries, no redirects, bounded answers.

Made on the thread that an SDK's calls run on; requests comes with the SDKs, so it is imported late.
"""

import importlib
import ssl
from collections.abc import Iterator
from typing import Any

MAX_ANSWER_BYTES = 1 << 25  # a page of 1,000 names of 1 KiB with all we ask for stays far below


class Bounded:
    """The body of an answer, refused where it does not end."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        """Pass the pieces on."""
        size = 0
        for piece in self._body.stream(*args, **kwargs):
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                self._body.close()
                raise ValueError("an answer without end")
            yield piece


def session(context: ssl.SSLContext | None) -> Any:
    """Return a session that retries twice (design §8.8), follows no redirect and trusts *context* too."""
    adapters, retry = library("requests.adapters"), library("urllib3.util.retry")
    requests = library("requests")

    class Adapter(adapters.HTTPAdapter):  # type: ignore[name-defined,misc]  # imported late
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, ssl_context=context, **kwargs)

        def build_response(self, *args: Any) -> Any:
            response = super().build_response(*args)
            response.raw = Bounded(response.raw)
            return response

    class Session(requests.Session):  # type: ignore[name-defined,misc]  # imported late
        def get_redirect_target(self, resp: Any) -> None:
            resp.content  # noqa: B018 - read, so that the connection can be kept

    retries = retry.Retry(
        total=2,
        backoff_factor=0.2,
        status_forcelist=(500, 502, 503, 504),
        allowed_methods=("GET",),
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    made = Session()
    for scheme in ("http://", "https://"):
        made.mount(scheme, Adapter(max_retries=retries))
    return made


def library(name: str) -> Any:
    """Import a module of an optional library, which is untyped in part."""
    return importlib.import_module(name)
