"""boto3 as we use it: the credential chain, listing, HEAD, and the address of a bucket. All of it blocks.

Everything here runs on a daemon thread. What the settings say is handed to boto3 explicitly, so that
it wins over what boto3 finds by itself; a profile's files can only be named to the botocore session below.
"""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.proxies import Proxies, proxy_for
from agent.storage.s3_errors import refusal_of_client_error, s3_error, wants_new_keys
from agent.storage.s3_settings import S3Settings
from agent.telemetry.traces import outgoing

_PROBE_KEY = "k"
_AMAZON_REGION = "us-east-1"  # botocore finds a bucket's own region from there


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one request is signed with."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a bucket's objects are: the quoted key goes right behind `base`."""

    base: str
    region: str
    ssl_context: ssl.SSLContext | None
    proxy: str | None = field(repr=False)


class S3Client:
    """Clients, credentials and addresses for one reading of the environment.

    `refused` becomes true when S3 refused the credentials themselves: then they are worth resolving again.
    """

    def __init__(self, settings: S3Settings, proxies: Proxies) -> None:
        self.settings = settings
        self.refused = False
        self._proxies = proxies
        self._ssl_context = _ssl_context(settings)
        self._clients: dict[str, Any] = {}
        with translated("S3 credentials"):
            self._session = _session(settings)
            self._credentials = None if settings.anonymous else self._session.get_credentials()
        if self._credentials is None and not settings.anonymous:
            raise RetryableError(Reason.INVALID_CREDENTIALS, _NO_CREDENTIALS)
        self._region = settings.region or self._session.region_name or _AMAZON_REGION

    @property
    def renewable(self) -> bool:
        """Whether another reading of the credentials may give others."""
        return not self.settings.anonymous and self.settings.keys is None

    def mark_refused(self) -> None:
        """Remember that the credentials were refused."""
        self.refused = self.renewable

    def refresh_due(self) -> bool:
        """Tell whether `credentials` may have to ask a service."""
        due = getattr(self._credentials, "refresh_needed", None)
        return bool(due()) if due is not None else False

    def credentials(self) -> Credentials | None:
        """Return what to sign with, renewed if they end soon; None where requests are not signed."""
        if self._credentials is None:
            return None
        with translated("S3 credentials"):
            frozen = self._credentials.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def page(self, bucket: str, prefix: str, token: str | None) -> Mapping[str, Any]:
        """Return one page of ListObjectsV2, keys decoded."""
        more = {"ContinuationToken": token} if token else {}
        with translated(f"s3://{bucket}/{prefix}", self):
            answer: Mapping[str, Any] = self._client(bucket).list_objects_v2(
                Bucket=bucket, Prefix=prefix, OptionalObjectAttributes=["RestoreStatus"], **more
            )
        return answer

    def head(self, bucket: str, key: str) -> Mapping[str, Any]:
        """Return what HeadObject says, checksums included."""
        with translated(f"s3://{bucket}/{key}", self):
            answer: Mapping[str, Any] = self._client(bucket).head_object(
                Bucket=bucket, Key=key, ChecksumMode="ENABLED"
            )
        return answer

    def address(self, bucket: str) -> Address:
        """Return where the bucket is, as botocore's endpoint rules say.

        To be asked after a listing: botocore then knows the bucket's own region.
        """
        with translated(f"s3://{bucket}", self):
            url = self._client(bucket).generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": _PROBE_KEY}
            )
        parts = urlsplit(url)
        # The signature covers a host without the scheme's own port, whatever the endpoint spells.
        netloc = parts.netloc.removesuffix({"http": ":80", "https": ":443"}[parts.scheme])
        scope = parse_qs(parts.query).get("X-Amz-Credential", [""])[0].split("/")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return Address(
            base=f"{parts.scheme}://{netloc}{parts.path.removesuffix(_PROBE_KEY)}",
            region=scope[2] if len(scope) > 2 else self._region,
            ssl_context=self._ssl_context if parts.scheme == "https" else None,
            proxy=proxy_for(self._proxies, parts.scheme, parts.hostname or "", port),
        )

    def _client(self, bucket: str) -> Any:
        style = self.settings.addressing(bucket)
        if style not in self._clients:
            with translated("S3"):
                self._clients[style] = self._create(style)
        return self._clients[style]

    def _create(self, style: str) -> Any:
        from botocore import UNSIGNED  # noqa: PLC0415 - optional, only for s3://
        from botocore.config import Config  # noqa: PLC0415 - optional, only for s3://

        settings = self.settings
        config = Config(
            signature_version=UNSIGNED if settings.anonymous else "s3v4",
            s3=cast("Any", {"addressing_style": style, "use_accelerate_endpoint": settings.accelerate}),
            connect_timeout=settings.connect_seconds,
            read_timeout=settings.read_seconds,
            retries={"total_max_attempts": settings.attempts, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies=self._client_proxies(),
            client_cert=_client_cert(settings),
        )
        client = self._session.client(
            "s3",
            region_name=self._region,
            endpoint_url=settings.endpoint,
            verify=(settings.ca_bundle or None) if settings.verify else False,
            config=config,
        )
        client.meta.events.register("before-send.s3", _carry)  # after signing: not a part of what is signed
        return client

    def _client_proxies(self) -> dict[str, str]:
        endpoint = urlsplit(self.settings.endpoint or f"https://s3.{self._region}.amazonaws.com")
        port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
        proxy = proxy_for(self._proxies, endpoint.scheme, endpoint.hostname or "", port)
        return {endpoint.scheme: proxy} if proxy else {}


def _client_cert(settings: S3Settings) -> Any:
    """Return what botocore's `client_cert` takes: a file with both, or the two files."""
    shown = settings.client_certificate
    if shown is None:
        return None
    return str(shown.certificate) if shown.key is None else (str(shown.certificate), str(shown.key))


def _carry(request: Any, **_: object) -> None:
    for name, value in outgoing().items():
        request.headers[name] = value


_NO_CREDENTIALS = (
    "no S3 credentials were found: no keys in the environment, no profile, web identity, pod identity or"
    " instance role; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or awsAnonymousCredential=true for a"
    " public bucket"
)


def _session(settings: S3Settings) -> Any:
    import boto3  # noqa: PLC0415 - optional, only for s3://
    from botocore.session import Session  # noqa: PLC0415 - optional, only for s3://

    core = Session(profile=settings.profile)
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    if settings.config_file:
        core.set_config_variable("config_file", settings.config_file)
    if settings.credentials_file:
        core.set_config_variable("credentials_file", settings.credentials_file)
    keys = settings.keys
    if keys is not None:
        return boto3.session.Session(keys.access_key, keys.secret_key, keys.token, botocore_session=core)
    core.get_component("credential_provider").remove("env")  # the settings have read it, and found none
    return boto3.session.Session(botocore_session=core)


def _moment(text: Any) -> Any:
    """Parse a time as botocore does; its way through dateutil took most of the time that a listing took."""
    from botocore.utils import parse_timestamp  # noqa: PLC0415 - optional, only for s3://

    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return parse_timestamp(text)


def _ssl_context(settings: S3Settings) -> ssl.SSLContext | None:
    """Return how to speak TLS, None for as everybody does."""
    context = _trusting(settings)
    if settings.client_certificate is not None:
        context = context or ssl.create_default_context()
        settings.client_certificate.load(context)
    return context


def _trusting(settings: S3Settings) -> ssl.SSLContext | None:
    if not settings.verify:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if settings.ca_bundle is None:
        return None
    if not Path(settings.ca_bundle).exists():
        raise TerminalError(
            Reason.TLS_ERROR,
            f"the CA bundle {settings.ca_bundle} does not exist; check its mount, AWS_CA_BUNDLE and"
            " CA_BUNDLE_VOLUME_MOUNT_POINT",
        )
    try:
        return ssl.create_default_context(cafile=settings.ca_bundle)
    except OSError as error:  # ssl.SSLError is one
        raise TerminalError(
            Reason.TLS_ERROR, f"the CA bundle {settings.ca_bundle} cannot be read as certificates"
        ) from error


@contextmanager
def translated(where: str, client: S3Client | None = None) -> Iterator[None]:
    """Let no error of botocore pass.

    Neither its text nor itself as a cause is kept: both may hold what the server repeated (law 10).
    """
    try:
        import boto3  # noqa: F401, PLC0415 - optional, only for s3://
        import botocore.exceptions as botocore  # noqa: PLC0415 - optional, only for s3://
        from botocore.parsers import ResponseParserError  # noqa: PLC0415 - optional, only for s3://
    except ImportError as error:
        raise TerminalError(
            Reason.MISSING_DEPENDENCY, "s3:// needs an extra: pip install 'model-agent[s3]'"
        ) from error
    try:
        yield
    except botocore.ClientError as error:
        refusal = refusal_of_client_error(error.response)
        if client is not None and wants_new_keys(refusal):
            client.mark_refused()
        renewable = client is not None and client.renewable
        raise s3_error(refusal, where, renewable=renewable) from None
    except ResponseParserError:
        raise RetryableError(Reason.STORAGE_ERROR, f"{where}: the answer is not one of S3") from None
    except botocore.ConnectionError as error:
        raise _connection_error(error, where, client) from None
    except (botocore.BotoCoreError, OSError) as error:
        raise _botocore_error(error, where) from None


def _connection_error(error: Exception, where: str, client: S3Client | None) -> AgentError:
    import botocore.exceptions as botocore  # noqa: PLC0415 - optional, only for s3://

    match error:
        case botocore.ConnectTimeoutError() | botocore.ReadTimeoutError():
            return RetryableError(
                Reason.STORAGE_TIMEOUT, f"{where}: S3 did not answer in time{_hint(client)}"
            )
        case botocore.SSLError():
            return TerminalError(
                Reason.TLS_ERROR,
                f"{where}: the endpoint's certificate is not trusted, or it speaks no TLS; check"
                f" AWS_CA_BUNDLE and the scheme of AWS_ENDPOINT_URL{_hint(client)}",
            )
        case botocore.ProxyConnectionError():
            return RetryableError(Reason.STORAGE_UNAVAILABLE, f"{where}: the proxy cannot be reached")
        case _:
            return RetryableError(
                Reason.STORAGE_UNAVAILABLE,
                f"{where}: S3 cannot be reached ({type(error).__name__}){_hint(client)}",
            )


def _botocore_error(error: Exception, where: str) -> AgentError:
    import botocore.exceptions as botocore  # noqa: PLC0415 - optional, only for s3://

    name = type(error).__name__
    match error:
        case botocore.ReadTimeoutError():
            return RetryableError(Reason.STORAGE_TIMEOUT, f"{where}: S3 did not answer in time")
        case botocore.HTTPClientError() | botocore.IncompleteReadError():
            return RetryableError(Reason.STORAGE_UNAVAILABLE, f"{where}: S3 cannot be reached ({name})")
        case botocore.NoCredentialsError():
            return RetryableError(Reason.INVALID_CREDENTIALS, _NO_CREDENTIALS)
        case botocore.PartialCredentialsError() | botocore.ProfileNotFound() | botocore.ConfigParseError():
            return TerminalError(
                Reason.INVALID_CREDENTIALS, f"{where}: the profile is missing or incomplete ({name})"
            )
        case botocore.CredentialRetrievalError() | botocore.TokenRetrievalError() | OSError():
            return RetryableError(
                Reason.INVALID_CREDENTIALS, f"{where}: the source of the credentials failed ({name})"
            )
        case botocore.ParamValidationError() | botocore.InvalidS3AddressingStyleError():
            return TerminalError(Reason.INVALID_STORAGE_URI, f"{where}: S3 allows no such bucket or key")
        case botocore.MissingDependencyException():
            return TerminalError(
                Reason.MISSING_DEPENDENCY, f"{where}: these credentials need pip install 'botocore[crt]'"
            )
        case _:
            return TerminalError(
                Reason.STORAGE_ERROR, f"{where}: the S3 settings do not work together ({name})"
            )


def _hint(client: S3Client | None) -> str:
    if client is None or client.settings.endpoint is None or not client.settings.virtual_hosts:
        return ""
    return "; if the endpoint knows no <bucket>.<host> names, set S3_USER_VIRTUAL_BUCKET=false"
