"""Which certificate authorities are trusted: the machine's own, and those the environment adds; who we are.

A file that is named and missing is an error, not a silence: every https model would fail with a less
clear one. Files are looked at again for each listing, so that what was rotated is taken up.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import TerminalError
from agent.core.reasons import Reason

BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CA_BUNDLE")
DEFAULT_BUNDLE_MOUNT = "/etc/ssl/custom-certs"  # KServe's, where CA_BUNDLE_VOLUME_MOUNT_POINT is absent
BUNDLE_NAME = "cabundle.crt"
CERTIFICATE_VARIABLE = "STORAGE_CERT_FILE"
KEY_VARIABLE = "STORAGE_KEY_FILE"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A file, or a folder of hashed certificates, and the variable that named it."""

    variable: str
    path: Path


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What we show to a server that asks who we are: PEM; the key may be in the certificate's own file."""

    certificate: Path
    key: Path | None = None

    def load(self, context: ssl.SSLContext) -> None:
        """Have *context* show it. Raises TerminalError(TlsError); never asks a terminal for a password."""
        try:
            context.load_cert_chain(self.certificate, self.key, password="")
        except OSError as error:  # ssl.SSLError is one
            why = (
                "no certificate and its unencrypted key"
                if isinstance(error, ssl.SSLError)
                else error.strerror
            )
            raise TerminalError(
                Reason.TLS_ERROR,
                f"{CERTIFICATE_VARIABLE} {self.certificate}, {KEY_VARIABLE} {self.key or 'not set'}: {why}",
            ) from error


def client_certificate_of(environ: Mapping[str, str]) -> ClientCertificate | None:
    """Return the certificate that the environment names, None where it names none."""
    certificate, key = (environ.get(name, "").strip() for name in (CERTIFICATE_VARIABLE, KEY_VARIABLE))
    if not certificate:
        return None
    return ClientCertificate(Path(certificate), Path(key) if key else None)


def bundles_of(environ: Mapping[str, str]) -> tuple[Bundle, ...]:
    """Return the bundles that the environment names, in the order in which they are added."""
    found = [Bundle(name, Path(environ[name])) for name in BUNDLE_VARIABLES if environ.get(name)]
    if environ.get("CA_BUNDLE_CONFIGMAP_NAME"):
        mount = environ.get("CA_BUNDLE_VOLUME_MOUNT_POINT") or DEFAULT_BUNDLE_MOUNT
        found.append(Bundle("CA_BUNDLE_CONFIGMAP_NAME", Path(mount) / BUNDLE_NAME))
    return tuple(found)


class Trust:
    """The TLS context for https, made once and again when one of the files changes."""

    def __init__(self, bundles: tuple[Bundle, ...], shown: ClientCertificate | None = None) -> None:
        self._bundles, self._shown = bundles, shown
        self._made: tuple[object, ssl.SSLContext] | None = None
        self._lock = asyncio.Lock()

    async def context(self) -> ssl.SSLContext:
        """Return the context; raises TerminalError(TlsError) naming the variable of a bad bundle."""
        async with self._lock:
            self._made = await asyncio.to_thread(self._refreshed)
            return self._made[1]

    def _refreshed(self) -> tuple[object, ssl.SSLContext]:
        paths = [bundle.path for bundle in self._bundles]
        if self._shown is not None:
            paths += [self._shown.certificate, self._shown.key or self._shown.certificate]
        seen = tuple(_stamp(path) for path in paths)
        if self._made is not None and self._made[0] == seen:
            return self._made
        context = ssl.create_default_context()
        _add_machine(context)
        for bundle in self._bundles:
            _add(context, bundle)
        if self._shown is not None:
            self._shown.load(context)
        return seen, context


def trust_of(environ: Mapping[str, str]) -> Trust:
    """Return what the environment says."""
    return Trust(bundles_of(environ), client_certificate_of(environ))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _add_machine(context: ssl.SSLContext) -> None:
    """Add what OpenSSL was built to trust: SSL_CERT_FILE would otherwise stand in its place."""
    built_in = Path(ssl.get_default_verify_paths().openssl_cafile)
    if built_in.is_file():
        with contextlib.suppress(OSError):
            context.load_verify_locations(cafile=built_in)


def _add(context: ssl.SSLContext, bundle: Bundle) -> None:
    folder = bundle.path.is_dir()
    try:
        context.load_verify_locations(
            cafile=None if folder else bundle.path, capath=bundle.path if folder else None
        )
    except OSError as error:  # ssl.SSLError is one
        why = "holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise TerminalError(
            Reason.TLS_ERROR, f"the CA bundle {bundle.path} named by {bundle.variable} cannot be used: {why}"
        ) from error
