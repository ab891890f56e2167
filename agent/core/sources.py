"""What KServe's storage initializer reads, source by source and variable by variable. Pure.

A source that is not read is refused in one line that says what to do; nothing is tried with a wrong client.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from agent.core.uri import redacted, scheme_of

TAKEN: Final[tuple[tuple[str, str], ...]] = (
    ("STORAGE_CONFIG, STORAGE_OVERRIDE_CONFIG", "`type` `s3`: endpoint, keys, region, CA, verify, anonymous"),
    (
        "STORAGE_ALLOW_PATTERNS, STORAGE_IGNORE_PATTERNS",
        "which files of a URI; an object named by it passes, and what is packed in layers",
    ),
    (
        (
            "AWS_*, awsAnonymousCredential, S3_ENDPOINT, S3_USE_HTTPS, S3_VERIFY_SSL, S3_USER_VIRTUAL_BUCKET,"
            " S3_USE_ACCELERATE, S3_CONNECT_TIMEOUT, S3_READ_TIMEOUT, S3_MAX_ATTEMPTS"
        ),
        "as under Storage",
    ),
    ("GOOGLE_APPLICATION_CREDENTIALS", "key file, else workload identity, else anonymous"),
    (
        "AZURE_STORAGE_ACCESS_KEY, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET, AZURE_TENANT_ID, AZ_*",
        "with the extra `azure`; the account is the one in the URL",
    ),
    ("HF_TOKEN", "to the Hub alone, `HF_ENDPOINT` or huggingface.co"),
    (
        "KSERVE_OCI_DOCKER_CONFIG, DOCKER_CONFIG",
        "docker's config.json, file and folder: `auths`; no credential helper is run",
    ),
    ("KSERVE_OCI_INSECURE_REGISTRY", "`1`, `true`, `yes`: registries are asked by plain http"),
    ("<host>-headers", "to that host alone"),
    ("HTTP_PROXY, HTTPS_PROXY, NO_PROXY", "as everywhere"),
    ("AWS_CA_BUNDLE, CA_BUNDLE_CONFIGMAP_NAME, CA_BUNDLE_VOLUME_MOUNT_POINT", "added to what is trusted"),
)
"""Variables that are honoured, and how."""

IGNORED: Final = ("S3_MAX_FILE_CONCURRENCY", "AZURE_MAX_FILE_CONCURRENCY", "AZURE_MAX_CHUNK_CONCURRENCY")
"""Taken and told: how many connections there are is `--max-connections`."""

REFUSED: Final[tuple[tuple[str, str, str], ...]] = (
    (
        "hdfs:// and webhdfs:// with HDFS_NAMENODE",
        "HDFS_*, TLS_*, KERBEROS_*, HEADERS, N_THREADS",
        "there is no HDFS client here: copy the model to s3://, gs://, https:// or a volume",
    ),
    ("modelscope://", "MODELSCOPE_API_TOKEN", "ModelScope is not read here: take hf://, or copy the model"),
    (
        "https://….git",
        "GIT_USERNAME, GIT_PASSWORD",
        "repositories are not cloned here: name the archive of a commit, https://…/archive/<commit>.tar.gz",
    ),
    (
        "https://….file.core.windows.net",
        "AZURE_*",
        "Azure file shares are not read here: mount the share as a volume, and name its path",
    ),
    (
        "any with CONFIDENTIAL_ENABLED",
        "CONFIDENTIAL_*",
        "models are not decrypted here: use KServe's own image",
    ),
)
"""Sources, the variables that are then not looked at, and why and what to do."""

_BLOB = re.compile(r"([a-z0-9]{3,24})\.(?:z\d+\.)?blob\.(?:core\.windows\.net|storage\.azure\.net)")
_SHARE = re.compile(r"[a-z0-9]{3,24}\.(?:z\d+\.)?file\.(?:core\.windows\.net|storage\.azure\.net)")
_HDFS, _MODELSCOPE, _GIT, _SHARES, _CONFIDENTIAL = (why for _, _, why in REFUSED)


class SourceError(ValueError):
    """A source that is not read; why, and what to do. Holds no secret."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is asked in place of a source: a URI, more variables for it, and what is to be told."""

    uri: str
    environ: Mapping[str, str]
    note: str | None = None


def source_of(uri: str, environ: Mapping[str, str], *, azure: bool) -> Source:
    """Return what to ask for a source of KServe's. *azure*: that extra is installed. Raises SourceError."""
    if environ.get("CONFIDENTIAL_ENABLED", "").lower() in {"1", "true", "yes"}:
        raise SourceError(f"CONFIDENTIAL_ENABLED: {_CONFIDENTIAL}")
    scheme = scheme_of(uri)
    why = {"hdfs": _HDFS, "modelscope": _MODELSCOPE}.get(scheme or "")
    if scheme == "webhdfs" and environ.get("HDFS_NAMENODE"):
        why = _HDFS
    if scheme in {"http", "https"}:
        parts = _split(uri)
        host = (parts.hostname or "").lower()
        if parts.path.rstrip("/").endswith(".git"):
            why = _GIT
        elif _SHARE.fullmatch(host):
            why = _SHARES
        elif match := _BLOB.fullmatch(host):
            return _blob(parts, uri, match[1], environ, azure=azure)
    if why is not None:
        raise SourceError(f"{redacted(uri)}: {why}")
    return Source(uri, environ)


def notes(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is to be told of variables that are taken and do nothing."""
    given = [name for name in IGNORED if environ.get(name)]
    return (f"{', '.join(given)}: taken, but --max-connections says it here",) if given else ()


def _split(uri: str) -> SplitResult:
    try:
        return urlsplit(uri)
    except ValueError:
        raise SourceError(f"{redacted(uri)}: this is no URL") from None


def _blob(parts: SplitResult, uri: str, account: str, environ: Mapping[str, str], *, azure: bool) -> Source:
    """Azure's own protocol lists folders; without its package one public or signed blob can still be read."""
    if not azure:
        return Source(
            uri,
            environ,
            "without the extra azure a blob is read by plain https: one object, public or signed, no folder",
        )
    more = {"AZURE_STORAGE_ACCOUNT_NAME": account, "AZURE_STORAGE_CONNECTION_STRING": ""}
    if ".z" in parts.netloc:
        more["AZURE_STORAGE_ACCOUNT_HOST"] = parts.hostname or ""
    if parts.query:
        more["AZURE_STORAGE_SAS_TOKEN"] = parts.query
    return Source(f"abfs://{unquote(parts.path).lstrip('/')}", {**environ, **more})
