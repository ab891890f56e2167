"""A registry as we use it: its tokens, its manifests, and where a blob's bytes are.

Plain GETs of the distribution specification 1.1. A name and its password go to the registry that config.json
gives them for, or to the token server that this registry names, never over http unless the registry itself is
asked so; a token goes to the registry alone, and to no host that it redirects to.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlencode

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.oci import ACCEPT, MANIFEST_BYTES, Content, Reference, content_of, verified
from agent.core.reasons import Reason
from agent.core.registry import Challenge, Login, Token, challenge_of, login_of, token_of
from agent.storage.addresses import AddressPolicy
from agent.storage.answers import status_error
from agent.storage.trust import Trust
from agent.storage.web import Answer, Look, WebClient, follow
from agent.storage.weburl import Origin, WebUrl, web_url

CONFIG_VARIABLE = "KSERVE_OCI_DOCKER_CONFIG"
KSERVE_CONFIG = "/mnt/oci-fetch-auth/config.json"
"""Where KServe mounts the image pull secret."""
INSECURE_VARIABLE = "KSERVE_OCI_INSECURE_REGISTRY"
MAX_CONFIG = 1 << 20
MAX_TOKEN_BODY = 1 << 18
MAX_TOKENS = 1024
EARLY_SECONDS = 10.0
"""A token is renewed so long before it ends, or a quarter of its time where that is less."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What one repository lets us in with; `until` is when that has to be renewed."""

    authorization: str | None = field(repr=False)
    challenge: Challenge | None
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a blob's bytes are; `elsewhere`: not at the registry, so that no token goes there."""

    url: WebUrl
    elsewhere: bool


class RegistryClient:
    """Registries, each asked with what docker's config.json has for it."""

    def __init__(
        self,
        environ: Mapping[str, str],
        trust: Trust,
        *,
        policy: AddressPolicy,
        allowed_hosts: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._environ, self._clock = environ, clock
        self.web = WebClient(environ, trust, policy=policy, allowed_hosts=allowed_hosts)
        self._standings: OrderedDict[tuple[str, str], Standing] = OrderedDict()
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    async def manifest(self, reference: Reference) -> tuple[str, Content]:
        """Return a manifest's digest, by its bytes, and what it says."""
        look = partial(self._whole, most=MANIFEST_BYTES)
        answer = await self._asked(reference, reference.path, {"Accept": ACCEPT}, look)
        if answer.status != 200:
            raise registry_error(answer.status, answer.headers, str(reference))
        digest = verified(answer.body, answer.headers.get("docker-content-digest"), reference)
        return digest, content_of(answer.body, answer.headers.get("content-type"), reference)

    async def land(self, blob: Reference) -> Landing:
        """Say where a blob's bytes are: GET is asked, for HEAD is not always redirected as GET is."""
        path = blob.blob(blob.digest or "")
        home = self.at_home(blob)
        answer = await self._asked(blob, path, {"Range": "bytes=0-0"}, self._whole)
        if answer.status not in {200, 206, 416}:  # the last: it is empty
            raise registry_error(answer.status, answer.headers, str(blob), listed=True)
        return Landing(answer.url, answer.url.origin != home.url.origin)

    def at_home(self, blob: Reference) -> Landing:
        """Return where a registry has a blob that it redirects nowhere."""
        return Landing(self._url(blob, blob.blob(blob.digest or "")), elsewhere=False)

    async def authorization(self, reference: Reference) -> dict[str, str]:
        """Return the header that lets us read a repository; a request is made where a token is at its end."""
        standing = self._standing(reference)
        if standing is not None and standing.challenge is not None and self._clock() >= standing.until:
            standing = await self._admitted(reference, standing.challenge, standing)
        known = standing.authorization if standing is not None else None
        return {"Authorization": known} if known else {}

    def doubt(self, reference: Reference, used: Mapping[str, str], fresh_seconds: float) -> bool:
        """Note that the header *used* was refused; False where it is so fresh that it did not end."""
        standing = self._standing(reference)
        if standing is None or used.get("Authorization") != standing.authorization:
            return True  # renewed by now, or never asked for
        if self._clock() - standing.since < fresh_seconds:
            return False
        ended = replace(standing, until=self._clock())
        self._standings[reference.host, reference.repository] = ended
        return True

    async def close(self) -> None:
        """Close the connections."""
        await self.web.close()

    def _standing(self, reference: Reference) -> Standing | None:
        return self._standings.get((reference.host, reference.repository))

    def _url(self, reference: Reference, path: str) -> WebUrl:
        host = reference.host
        scheme = "http" if self._insecure(host) else "https"
        return web_url(f"{scheme}://{host}{path}")

    def _insecure(self, host: str) -> bool:
        """Plain http is for what is declared so, and else for the pod itself, as docker has it."""
        said = self._environ.get(INSECURE_VARIABLE, "").strip().lower()
        return said in {"1", "true", "yes"} or (not said and _is_loopback(host))

    async def _asked(self, reference: Reference, path: str, headers: Mapping[str, str], look: Look) -> Answer:
        """Ask the registry, and once more with a token where it wants one."""
        first = self._url(reference, path)

        async def by(url: WebUrl, given: Mapping[str, str]) -> Answer:
            return await look(url, {**headers, **given})

        before = self._standing(reference)
        answer = await follow(first, await self.authorization(reference), by)
        wanted = challenge_of(answer.headers.get("www-authenticate", ""))
        if answer.status == 401 and answer.url.origin == first.origin and wanted is not None:
            await self._admitted(reference, wanted, before)
            answer = await follow(first, await self.authorization(reference), by)
        return answer

    async def _whole(self, url: WebUrl, headers: Mapping[str, str], *, most: int = 0) -> Answer:
        return await self.web.ask("GET", url, headers, most=most)

    async def _admitted(
        self, reference: Reference, challenge: Challenge, before: Standing | None
    ) -> Standing:
        """Get in anew, once for all who want it at the same time."""
        key = (reference.host, reference.repository)
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                now = self._standings.get(key)
                if now is not None and now is not before:
                    return now
                standing = await self._entered(reference, challenge)
                self._standings[key] = standing
                self._standings.move_to_end(key)
                if len(self._standings) > MAX_TOKENS:
                    self._standings.popitem(last=False)
                return standing
        finally:
            self._locks.pop(key, None)

    async def _entered(self, reference: Reference, challenge: Challenge) -> Standing:
        login = await asyncio.to_thread(self._login, reference)
        now = self._clock()
        if challenge.realm is None:
            if login is not None and login.identity_token:
                raise TerminalError(
                    Reason.INVALID_CREDENTIALS,
                    f"{reference.registry} wants a name and a password, config.json has an identity token",
                )
            return Standing(login.basic if login else None, challenge, now, float("inf"))
        token = await self._token(reference, challenge, login)
        good = token.seconds - min(EARLY_SECONDS, token.seconds / 4)
        return Standing(f"Bearer {token.value}", challenge, now, now + good)

    async def _token(self, reference: Reference, challenge: Challenge, login: Login | None) -> Token:
        realm = self._realm(reference, challenge.realm or "")
        scope = challenge.scope or f"repository:{reference.repository}:pull"
        wanted = {"service": challenge.service or reference.registry, "scope": scope}
        where = f"the token server of {reference.registry}, {realm.shown},"
        if login is not None and login.identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": login.identity_token, **wanted}
            form["client_id"] = "model-agent"
            answer = await self.web.ask("POST", realm, {}, most=MAX_TOKEN_BODY, form=form)
        else:
            query = "&".join(part for part in (realm.query, urlencode(wanted)) if part)
            url = WebUrl(realm.origin, realm.path, query)
            headers = {"Authorization": login.basic} if login else {}
            answer = await follow(url, headers, partial(self._whole, most=MAX_TOKEN_BODY))
        if answer.status != 200:
            raise registry_error(answer.status, answer.headers, where)
        return token_of(answer.body, where)

    def _realm(self, reference: Reference, text: str) -> WebUrl:
        """Return where tokens come from. Raises TerminalError for what may not hear of a password."""
        try:
            realm = web_url(text)
        except TerminalError:
            raise TerminalError(
                Reason.STORAGE_ERROR,
                f"{reference.registry} names a token server that is no http or https URL",
            ) from None
        if realm.origin.scheme == "http" and not self._insecure(reference.host):
            raise TerminalError(
                Reason.REDIRECT_REFUSED,
                f"{reference.registry} wants tokens to be asked for over http, at {realm.origin.host}: "
                "nothing is sent there",
            )
        return WebUrl(realm.origin, realm.path, realm.query)

    def _login(self, reference: Reference) -> Login | None:
        """Read config.json anew, since secrets are rotated. Blocks."""
        path = config_file(self._environ)
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(MAX_CONFIG)
        except FileNotFoundError:
            if self._environ.get(CONFIG_VARIABLE):
                raise TerminalError(
                    Reason.INVALID_CREDENTIALS, f"{CONFIG_VARIABLE} names {path}, which is not there"
                ) from None
            return None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise TerminalError(Reason.INVALID_CREDENTIALS, f"{path} cannot be read: {why}") from None
        return login_of(text, reference, str(path))


def config_file(environ: Mapping[str, str]) -> Path:
    """Return where docker's config.json is, or would be."""
    if told := environ.get(CONFIG_VARIABLE):
        path = Path(told)
        return path / "config.json" if path.is_dir() else path
    if folder := environ.get("DOCKER_CONFIG"):
        return Path(folder) / "config.json"
    mounted = Path(KSERVE_CONFIG)
    return mounted if mounted.exists() else Path(environ.get("HOME") or "/") / ".docker" / "config.json"


def registry_error(
    status: int, headers: Mapping[str, str], where: str, *, listed: bool = False
) -> AgentError:
    """Translate a refusal; *listed*: a manifest named the blob a moment ago."""
    if status in {404, 410} and listed:
        return RetryableError(Reason.SNAPSHOT_CHANGED, f"{where} was listed and is gone (status {status})")
    if status in {401, 403}:
        return TerminalError(
            Reason.ACCESS_DENIED,
            f"{where} may not be read, or does not exist (status {status}); credentials come from docker's "
            f"config.json: {CONFIG_VARIABLE}, DOCKER_CONFIG or ~/.docker",
        )
    return status_error(status, headers, where)


def _is_loopback(host: str) -> bool:
    name = Origin("http", host.rpartition(":")[0] if _has_port(host) else host, 80).hostname
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdigit() and not host.endswith("]")
