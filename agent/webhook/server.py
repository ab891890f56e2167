"""The admission webhook over HTTPS, its certificate read again when the file changes.

It answers 400 or 413 to what is no review, and waits no longer than ten seconds for a handshake, a head
or a body.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from agent.aio.door import Door, DoorLimits
from agent.core.errors import TerminalError
from agent.core.inject import Options
from agent.core.reasons import Reason
from agent.webhook import injection
from agent.webhook.review import ReviewError, answer

log = logging.getLogger("agent.webhook")

PATH = "/validate-serving-kserve-io-v1alpha1-trainedmodel"
LARGEST_REVIEW = 3 * 1024 * 1024 - 1
BODY_SECONDS = 10.0
_LIMITS = DoorLimits(connections=256, head_seconds=10.0)
_RELOAD_SECONDS = 10.0


def make_app(
    options: Options = Options(),  # noqa: B008 - frozen
    body_seconds: float = BODY_SECONDS,
) -> web.Application:
    """Return the webhook without its TLS: the reviews' paths and /healthz; *options* are of injection."""

    def inject(body: bytes) -> dict[str, Any]:
        return injection.answer(body, options)

    app = web.Application(client_max_size=LARGEST_REVIEW)
    app.router.add_post(PATH, partial(_review, answer, body_seconds))
    app.router.add_post(injection.PATH, partial(_review, inject, body_seconds))
    app.router.add_get("/healthz", _healthz)
    return app


Stamp = list[bytes | None]
Answer = Callable[[bytes], dict[str, Any]]
"""From a review to its answer. Raises ReviewError for what is none."""


async def serve_webhook(
    host: str,
    port: int,
    certificate: Path,
    key: Path,
    *,
    reload_seconds: float = _RELOAD_SECONDS,
    listening: asyncio.Future[int] | None = None,
    options: Options = Options(),  # noqa: B008 - frozen
    limits: DoorLimits = _LIMITS,
) -> None:
    """Serve until cancelled; *listening* is given the port. Raises TerminalError for a bad certificate."""
    files = (certificate, key)
    loaded = _stamp(files)  # before they are read: what is written meanwhile counts as new
    try:
        shown = _Shown(_with(files))
    except (OSError, ssl.SSLError) as error:
        raise TerminalError(
            Reason.TLS_ERROR, f"the webhook's certificate {certificate} cannot be used: {_words(error)}"
        ) from error
    runner = web.AppRunner(make_app(options), access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    listener = None
    try:
        assert runner.server is not None  # noqa: S101 - it was set up
        listener = await asyncio.get_running_loop().create_server(
            Door(runner.server, limits),
            host,
            port,
            ssl=shown.context,
            ssl_handshake_timeout=limits.head_seconds,
        )
        if listening is not None:
            listening.set_result(listener.sockets[0].getsockname()[1])
        await _reload(shown, files, loaded, reload_seconds)
    finally:
        if listener is not None:
            listener.close()
        await runner.cleanup()


class _Shown:
    """The certificate that is shown: each handshake has one whole pair of certificate and key.

    A context that is in use is never loaded anew: a handshake that begins between its certificate and its
    key would fail. `context` is what to listen with; `use` says what is shown from the next handshake on.
    """

    def __init__(self, first: ssl.SSLContext) -> None:
        self._newest = first
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.sni_callback = self._choose

    def use(self, newest: ssl.SSLContext) -> None:
        """Show what was loaded into *newest*."""
        self._newest = newest

    def _choose(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called with each greeting, whether it names a host or not."""
        handshake.context = self._newest


def _with(files: Sequence[Path]) -> ssl.SSLContext:
    """Return a context with the certificate and the key of these files. Raises OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[0], files[1])
    return context


async def _reload(shown: _Shown, files: Sequence[Path], loaded: Stamp, seconds: float) -> None:
    """Load the certificate again whenever its files are not as *loaded*; a bad one leaves the old in use."""
    while True:
        await asyncio.sleep(seconds)
        stamp = await asyncio.to_thread(_stamp, files)
        if stamp == loaded:
            continue
        loaded = stamp
        try:
            shown.use(await asyncio.to_thread(_with, files))
        except (OSError, ssl.SSLError) as error:
            log.warning(
                "the new certificate cannot be used; the old one stays", extra={"problem": _words(error)}
            )
        else:
            log.info("the certificate was read again")


def _stamp(files: Sequence[Path]) -> Stamp:
    """Return what tells whether files are others: their bytes, for they are small."""
    return [path.read_bytes() if path.exists() else None for path in files]


async def _review(answer: Answer, body_seconds: float, request: web.Request) -> web.Response:
    try:
        async with asyncio.timeout(body_seconds):
            body = await request.read()
    except TimeoutError:
        return web.Response(status=400, text="the body did not come in time")
    except web.RequestPayloadError:
        return web.Response(status=400, text="the body is damaged")
    return reply(answer, body)


def reply(answer: Answer, body: bytes) -> web.Response:
    """Return what is said to a body that is all there: 200 with the review's answer, or 400 in words."""
    try:
        return web.json_response(answer(body))
    except ReviewError as error:
        return web.Response(status=400, text=str(error))


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"it is no certificate in PEM with the key that goes with it ({error.reason or 'TLS'})"
    return error.strerror or type(error).__name__
