"""The settings of `run`: one table of flags, each also read from `MODELAGENT_<FLAG>`, read exactly once.

All bad values are reported together, unknown `MODELAGENT_` variables too. KServe's agent flags are
understood as it spells them (kserve-contract §1.4); those that mean nothing here are taken and ignored.
"""

import argparse
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from agent.core.flagvalues import (
    amount,
    at_once,
    lasting,
    memory,
    one_of,
    optional_count,
    optional_networks,
    other_port,
    plain,
    port,
    rate,
    server_url,
    switch,
)
from agent.core.reach import Network, networks, prefixes, words
from agent.core.redact import redact
from agent.usage import UsageError

ENV_PREFIX = "MODELAGENT_"


def optional_path(text: str) -> Path | None:
    """Return the path of a file, None where none is named."""
    return Path(text) if text else None


def path_list(text: str) -> tuple[Path, ...]:
    """Return the absolute paths of a list separated by colons. Raises ValueError."""
    paths = tuple(Path(part) for part in text.split(":") if part)
    if any(not path.is_absolute() for path in paths):
        raise ValueError("holds a path that is not absolute")
    return paths


@dataclass(frozen=True, slots=True)
class Flag:
    """One setting: its name on the command line, how its text is read, its default as text, its help."""

    name: str
    parse: Callable[[str], Any]
    default: str
    help: str

    @property
    def env(self) -> str:
        """The environment variable that also gives it."""
        return ENV_PREFIX + self.name.upper().replace("-", "_")

    @property
    def key(self) -> str:
        """The name of the field in `Settings`."""
        return self.name.replace("-", "_")


FLAGS: tuple[Flag, ...] = (
    Flag("config-dir", Path, "/mnt/configs", "folder where the ConfigMap with models.json is mounted"),
    Flag("model-dir", Path, "/mnt/models", "folder that the model server reads, one folder a model"),
    Flag(
        "store-dir",
        str,
        "",
        "folder for downloads and state, on the same file system; default: the model dir",
    ),
    Flag(
        "enable-puller",
        switch,
        "false",
        "KServe's switch; `run` always pulls, with it KServe's defaults are used",
    ),
    Flag("port", port, "9081", "KServe's agent port (the proxy that stands in for KServe's agent)"),
    Flag("drain-quiet", lasting(0), "30s", "after SIGTERM the proxy ends once no request came for so long"),
    Flag(
        "agent-socket",
        str,
        "@/kserve/agent.sock",
        "abstract unix socket of the proxy, KServe's own name by default",
    ),
    Flag(
        "on-unsupported",
        one_of("fail", "ignore"),
        "fail",
        "what the image's entry point does when it is asked to log or batch requests, which it does not",
    ),
    Flag("component-port", other_port, "8080", "port of the model server when --server-url is not given"),
    Flag(
        "server-url",
        server_url,
        "",
        "model server, http://, https:// or unix://; default: found out, see below",
    ),
    Flag(
        "server-protocol",
        one_of("auto", "kserve", "mlserver", "triton"),
        "auto",
        "dialect of the V2 repository protocol; auto asks the server",
    ),
    Flag("server-token-file", optional_path, "", "bearer token for the model server, read for each request"),
    Flag("server-ca-file", optional_path, "", "CA certificates to trust for https:// to the server"),
    Flag("server-cert-file", optional_path, "", "client certificate to show to the server, PEM"),
    Flag("server-key-file", optional_path, "", "its private key, where that is not in the same file"),
    Flag("status-host", str, "", "address of /status; default 127.0.0.1, with --enable-puller 0.0.0.0"),
    Flag(
        "status-token-file",
        optional_path,
        "",
        "file with the bearer token that all but probes and the bare page must show, read for each request",
    ),
    Flag(
        "status-allow-host",
        words,
        "",
        "more host names to be asked by than addresses and names of the cluster; a web page may forge others",
    ),
    Flag("status-port", port, "9082", "port of /status, /healthz, /readyz"),
    Flag("memory-budget", memory, "none", "memory for all models together, a quantity such as 8Gi, or none"),
    Flag("server-overhead", amount, "0", "part of the budget that the server itself needs"),
    Flag("default-model-memory", amount, "0", "what a model without `memory` counts"),
    Flag(
        "update-policy",
        one_of("availability", "resource"),
        "availability",
        "resource: unload first when both do not fit",
    ),
    Flag("resync-interval", lasting(0.1), "30s", "longest time until a lost event is noticed"),
    Flag(
        "refresh-interval",
        lasting(1, or_zero=True),
        "0",
        "list the storage again this often to find new bytes; 0: never",
    ),
    Flag("max-concurrent-downloads", at_once, "4", "models downloaded at once"),
    Flag(
        "max-connections",
        at_once,
        "16",
        "connections to storage at once, shared by all downloads; one model uses at most half",
    ),
    Flag("bandwidth-limit", rate, "none", "bytes a second for all downloads together, or none"),
    Flag(
        "min-rate",
        amount,
        "64Ki",
        "bytes a second below which a connection is given up after a minute, unless many share a line",
    ),
    Flag("load-timeout", lasting(1), "10m", "longest time for one load"),
    Flag(
        "max-removal", optional_count, "none", "refuse a document that removes more models than this at once"
    ),
    Flag(
        "ready-when",
        one_of("tried", "loaded"),
        "tried",
        "when /readyz says 200: first set tried once, or all loaded",
    ),
    Flag(
        "allowed-roots",
        path_list,
        "/mnt/pvc",
        "folders that file:// and pvc:// may read, separated by colons",
    ),
    Flag(
        "shared-root",
        path_list,
        "",
        "folders of --allowed-roots that the model server sees at the same path, separated by colons: their "
        "files are linked instead of copied",
    ),
    Flag(
        "deny-address",
        optional_networks,
        "",
        "networks that no URI may have connected to, or metadata, loopback, private, none, separated by "
        "commas; default metadata, with --enable-puller metadata,loopback",
    ),
    Flag(
        "allow-host",
        words,
        "",
        "the only hosts that http(s):// and oci:// may ask, *.domain too; default: any",
    ),
    Flag("allow-uri", prefixes, "", "the only prefixes of storageUri, separated by commas; default: any"),
    Flag(
        "signing-key-file",
        optional_path,
        "",
        "public key in PEM that modelSpec.signature is checked with; needs the extra signing",
    ),
    Flag(
        "scrub-interval",
        lasting(1, or_zero=True),
        "0",
        "read all that is stored again this often and compare its checksums; 0: never",
    ),
    Flag("scrub-rate", amount, "64Mi", "bytes a second at most for that"),
    Flag("disk-budget", memory, "none", "most disk for downloads; default: keep 10 % of the volume free"),
    Flag(
        "events",
        switch,
        "false",
        "tell what changes by Kubernetes Events of the pod; needs the rights of config/events, and POD_NAME, "
        "POD_NAMESPACE and POD_UID",
    ),
    Flag("once", switch, "false", "converge, then exit 0, or 1 with the reasons"),
    Flag("timeout", lasting(0.1), "10m", "longest time for --once"),
    Flag("log-level", one_of("debug", "info", "warning", "error"), "info", "least level that is logged"),
    Flag(
        "log-format", one_of("auto", "json", "text"), "auto", "auto: text on a terminal, JSON lines elsewhere"
    ),
)

SWITCHES = frozenset(flag.name for flag in FLAGS if flag.parse is switch)

KSERVE_IGNORED: Mapping[str, bool] = {
    # name → takes a value (kserve-contract §1.4)
    "probe-period": True,
    "log-url": True,
    "workers": True,
    "source-uri": True,
    "log-mode": True,
    "log-store-path": True,
    "log-store-format": True,
    "log-marshaller-url": True,
    "log-marshaller-port": True,
    "log-batch-size": True,
    "log-batch-interval": True,
    "inference-service": True,
    "namespace": True,
    "endpoint": True,
    "component": True,
    "metadata-headers": True,
    "metadata-annotations": True,
    "enable-batcher": False,
    "max-batchsize": True,
    "max-latency": True,
    "logger-ca-cert-file": True,
    "logger-tls-skip-verify": False,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `run` was told, as values: bytes, seconds, paths.

    `ignored` names KServe's flags that were given and mean nothing here.
    """

    config_dir: Path
    model_dir: Path
    store_dir: Path | None
    enable_puller: bool
    port: int
    drain_quiet: float
    agent_socket: str
    on_unsupported: str
    component_port: int
    server_url: str | None
    server_protocol: str
    status_host: str
    status_token_file: Path | None
    status_allow_host: tuple[str, ...]
    status_port: int
    server_token_file: Path | None
    server_ca_file: Path | None
    server_cert_file: Path | None
    server_key_file: Path | None
    memory_budget: int | None
    server_overhead: int
    default_model_memory: int
    update_policy: str
    resync_interval: float
    refresh_interval: float
    max_concurrent_downloads: int
    max_connections: int
    bandwidth_limit: int | None
    min_rate: int
    load_timeout: float
    max_removal: int | None
    ready_when: str
    allowed_roots: tuple[Path, ...]
    shared_root: tuple[Path, ...]
    deny_address: tuple[Network, ...]
    allow_host: tuple[str, ...]
    allow_uri: tuple[str, ...]
    signing_key_file: Path | None
    scrub_interval: float
    scrub_rate: int
    disk_budget: int | None
    events: bool
    once: bool
    timeout: float
    log_level: str
    log_format: str
    ignored: tuple[str, ...] = ()

    @property
    def budget_bytes(self) -> int | None:
        """What is left for models, None without a budget."""
        return None if self.memory_budget is None else max(self.memory_budget - self.server_overhead, 0)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the table to *parser*; values stay text, so that flags and environment are read alike."""
    for flag in FLAGS:
        text = f"{flag.help} [{flag.env}{f', default {flag.default}' if flag.default else ''}]".replace(
            "%", "%%"
        )
        if flag.name in SWITCHES:
            parser.add_argument(f"--{flag.name}", nargs="?", const="true", help=text, metavar="true|false")
        else:
            parser.add_argument(f"--{flag.name}", help=text, metavar="…")
    for name, takes_value in KSERVE_IGNORED.items():
        nargs = None if takes_value else "?"
        parser.add_argument(f"--{name}", nargs=nargs, const="true" if nargs else None, help=argparse.SUPPRESS)


def read_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Read flags, then environment, then defaults. Raises UsageError naming every fault."""
    parser = _Parser(prog="model-agent run", add_help=False, allow_abbrev=False)
    add_flags(parser)
    known, rest = parser.parse_known_args(list(arguments))
    return settle(vars(known), rest, environ)


def settle(given: Mapping[str, str | None], rest: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Turn texts into `Settings`. Raises UsageError naming every fault of flags and environment."""
    faults = [_unknown(word) for word in rest]
    faults += [
        f"{name}: there is no such setting{_hint(name, [flag.env for flag in FLAGS])}"
        for name in sorted(environ)
        if name.startswith(ENV_PREFIX) and name not in {flag.env for flag in FLAGS} | _OTHER_ENV
    ]
    values: dict[str, Any] = {}
    for flag in FLAGS:
        flag_text = given.get(flag.key)
        where, text = (
            (f"--{flag.name}", flag_text) if flag_text is not None else (flag.env, environ.get(flag.env))
        )
        try:
            values[flag.key] = flag.parse(flag.default if text is None else text)
        except ValueError as error:
            faults.append(f"{where}: {redact(text or '')!r} {plain(error)}")
    budget, overhead = values.get("memory_budget"), values.get("server_overhead")
    if budget is not None and overhead and overhead >= budget:
        faults.append(
            "--server-overhead leaves nothing of --memory-budget: make one larger or the other smaller"
        )
    if values.get("server_key_file") and not values.get("server_cert_file"):
        faults.append("--server-key-file is of no use without --server-cert-file: give both")
    if faults:
        raise UsageError("\n".join(faults))
    ignored = tuple(f"--{name}" for name in KSERVE_IGNORED if given.get(name.replace("-", "_")) is not None)
    return _finished(values, ignored)


_OTHER_ENV = frozenset(
    {f"{ENV_PREFIX}URL", f"{ENV_PREFIX}TEST_CACHE"}
)  # `status`, and the project's own tests


def _finished(values: dict[str, Any], ignored: tuple[str, ...]) -> Settings:
    values["store_dir"] = Path(values["store_dir"]) if values["store_dir"] else None
    if values["deny_address"] is None:
        values["deny_address"] = networks("metadata,loopback" if values["enable_puller"] else "metadata")
    values["status_host"] = values["status_host"] or ("0.0.0.0" if values["enable_puller"] else "127.0.0.1")  # noqa: S104 - KServe's probes come over the pod network (design §8.11)
    known = {field.name for field in fields(Settings)}
    return Settings(**{key: value for key, value in values.items() if key in known}, ignored=ignored)


def _unknown(word: str) -> str:
    if not word.startswith("-"):
        return f"{word!r}: `run` takes no arguments without a flag"
    name = word.partition("=")[0]
    return f"{name}: there is no such flag{_hint(name, [f'--{flag.name}' for flag in FLAGS])}"


def _hint(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""
