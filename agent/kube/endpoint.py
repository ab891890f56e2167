"""Where the API server is and who we are: from a kubeconfig, or from the service account of the pod.

Tokens are read again every minute, for the kubelet rotates them. Credentials never appear in an error.
"""

import asyncio
import base64
import json
import os
import ssl
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yaml

from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_SECONDS = 60.0
_EXEC_SECONDS = 60.0


@dataclass(slots=True)
class Endpoint:
    """The API server's URL without a final slash, and what it takes to be let in.

    `namespace` is where we are: the pod's, or that of the kubeconfig's context.
    """

    url: str
    ssl_context: ssl.SSLContext | None
    namespace: str
    token: "TokenSource"
    basic: aiohttp.BasicAuth | None = field(default=None, repr=False)


class TokenSource:
    """A bearer token: fixed, from a file, or from a command of the kubeconfig; None where there is none."""

    def __init__(
        self,
        *,
        fixed: str | None = None,
        file: Path | None = None,
        command: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._file = file
        self._command = command
        self._environ = dict(environ or {})
        self._token = fixed
        self._read_at = float("-inf")

    def __repr__(self) -> str:
        return "TokenSource()"

    async def get(self) -> str | None:
        """Return the token, read anew once a minute."""
        now = asyncio.get_running_loop().time()
        if now - self._read_at >= _TOKEN_SECONDS:
            if self._file is not None:
                self._token = await asyncio.to_thread(_read_token, self._file)
            elif self._command is not None:
                self._token = await self._ask()
            self._read_at = now
        return self._token

    def forget(self) -> None:
        """Read the token anew next time: the server did not take it."""
        self._read_at = float("-inf")

    async def _ask(self) -> str:
        command = self._command or {}
        name = str(command.get("command", ""))
        extra = {str(item["name"]): str(item["value"]) for item in command.get("env") or ()}
        info = {
            "apiVersion": command.get("apiVersion"),
            "kind": "ExecCredential",
            "spec": {"interactive": False},
        }
        environ = {**self._environ, **extra, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        try:
            process = await asyncio.create_subprocess_exec(
                name,
                *[str(argument) for argument in command.get("args") or ()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=environ,
            )
            async with asyncio.timeout(_EXEC_SECONDS):
                output, _ = await process.communicate()
            return str(json.loads(output)["status"]["token"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RetryableError(
                Reason.INVALID_CREDENTIALS,
                f"the kubeconfig's command {name!r} gave no token ({type(error).__name__}); run it by hand",
            ) from error


def find_endpoint(
    environ: Mapping[str, str], kubeconfig: Path | None = None, context: str | None = None
) -> Endpoint:
    """Return the endpoint of *kubeconfig*; of the pod's service account; or of the usual kubeconfig. Blocks.

    Raises TerminalError where there is none.
    """
    path = kubeconfig
    if path is None and "KUBERNETES_SERVICE_HOST" not in environ:
        usual = Path(environ.get("HOME", "/")) / ".kube/config"
        named = environ.get("KUBECONFIG", "").partition(os.pathsep)[0]
        path = Path(named) if named else usual if usual.exists() else None
    return in_cluster(environ) if path is None else from_kubeconfig(path, environ, context)


def in_cluster(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Endpoint:
    """Return the endpoint of the pod's service account. Blocks; raises TerminalError outside a pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    authority = folder / "ca.crt"
    if not host or not authority.exists():
        raise TerminalError(
            Reason.INVALID_CREDENTIALS,
            "neither a kubeconfig nor a service account: give --kubeconfig, or run in a pod with "
            "automountServiceAccountToken",
        )
    namespace = folder / "namespace"
    shown = f"[{host}]" if ":" in host else host
    return Endpoint(
        url=f"https://{shown}:{port}",
        ssl_context=ssl.create_default_context(cafile=str(authority)),
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
        token=TokenSource(file=folder / "token"),
    )


def from_kubeconfig(path: Path, environ: Mapping[str, str], context: str | None = None) -> Endpoint:
    """Return the endpoint of a kubeconfig's current (or named) context. Blocks.

    Raises TerminalError where the file cannot be read or uses what is not supported (auth-provider,
    proxy-url), naming it.
    """
    try:
        config = yaml.safe_load(path.read_text())
        _check_names_one(config, context)
        chosen = _named(config, "contexts", "context", context or config.get("current-context"))
        cluster = _named(config, "clusters", "cluster", chosen.get("cluster"))
        user = _named(config, "users", "user", chosen.get("user")) if chosen.get("user") else {}
        _refuse_unsupported(user.keys() | cluster.keys())
        return Endpoint(
            url=str(cluster["server"]).rstrip("/"),
            ssl_context=_ssl_context(path.parent, cluster, user),
            namespace=str(chosen.get("namespace") or "default"),
            token=_token_source(path.parent, user, environ),
            basic=aiohttp.BasicAuth(user["username"], user.get("password", ""))
            if "username" in user
            else None,
        )
    except OSError as error:
        raise TerminalError(
            Reason.INVALID_CREDENTIALS,
            f"the kubeconfig {path} or a file it names cannot be read: {error.strerror}",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise TerminalError(Reason.INVALID_CREDENTIALS, f"the kubeconfig {path}: {_words(error)}") from error


def _refuse_unsupported(keys: Collection[str]) -> None:
    for key in ("auth-provider", "proxy-url"):
        if key in keys:
            raise ValueError(f"{key} is not supported; use a token, a certificate or an exec command")


def _token_source(folder: Path, user: Mapping[str, Any], environ: Mapping[str, str]) -> TokenSource:
    if "tokenFile" in user:
        return TokenSource(file=folder / user["tokenFile"])
    return TokenSource(fixed=user.get("token"), command=user.get("exec"), environ=environ)


def _ssl_context(folder: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext | None:
    if urlsplit(str(cluster["server"])).scheme != "https":
        return None
    authority = _bytes(folder, cluster, "certificate-authority")
    tls = ssl.create_default_context(cadata=authority.decode() if authority is not None else None)
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    certificate, key = (_bytes(folder, user, f"client-{part}") for part in ("certificate", "key"))
    if certificate is not None and key is not None:
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # mode 0600, gone at once
            file.write(certificate + b"\n" + key)
            file.flush()
            tls.load_cert_chain(file.name)
    return tls


def _bytes(folder: Path, section: Mapping[str, Any], name: str) -> bytes | None:
    if f"{name}-data" in section:
        return base64.b64decode(section[f"{name}-data"])
    return (folder / section[name]).read_bytes() if name in section else None


def _check_names_one(config: object, context: str | None) -> None:
    if not isinstance(config, Mapping):
        raise ValueError("it is empty, or no object")  # noqa: TRY004 - told in words by who reads the file
    if not context and not config.get("current-context"):
        raise ValueError("it names no current-context: set one, or give --context")


def _words(error: Exception) -> str:
    if type(error) is ValueError:
        return str(error)
    if isinstance(error, UnicodeDecodeError | yaml.YAMLError):
        return "it is no YAML"
    return f"it is malformed ({type(error).__name__})"


def _named(config: Mapping[str, Any], listed: str, kind: str, name: Any) -> Mapping[str, Any]:
    for item in config.get(listed) or ():
        if item.get("name") == name:
            found: Mapping[str, Any] = item[kind]
            return found
    raise ValueError(f"it has no {kind} {name!r}")


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise RetryableError(
            Reason.INVALID_CREDENTIALS, f"the token {path} cannot be read: {error.strerror}"
        ) from error
