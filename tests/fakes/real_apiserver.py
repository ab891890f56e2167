"""A real kube-apiserver with its etcd, from the folder that KUBEBUILDER_ASSETS names, driven as the fake is.

Requests of the test itself are made one at a time and wait for their answer. Nothing can be scripted to go
wrong here; tests that do that, or that look at the writes one by one, are for the fake alone.
"""

import contextlib
import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import trustme

from agent.kube.endpoint import Endpoint, TokenSource
from tests.fakes.apiserver import KINDS, PLURALS
from tests.manifests.schema import load_crd
from tests.servers.real import free_ports

TOKEN = "a-token-for-tests"
PROGRAMS = ("etcd", "kube-apiserver")
CLEARED = [kind for kind in KINDS.values() if kind != "Lease"]
ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def assets():
    """Return the folder of the programs; skips the test where there is none."""
    named = os.environ.get("KUBEBUILDER_ASSETS")
    if not named:
        pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd")
    missing = [name for name in PROGRAMS if not (Path(named) / name).exists()]
    assert not missing, f"{named}, which KUBEBUILDER_ASSETS names, has no {' and no '.join(missing)}"
    return Path(named)


class RealApiServer:
    """An API server by its URL; the same few methods that tests use of the fake."""

    def __init__(self, url, context=None):
        self.url, self.context = url, context
        self.clients = []

    def endpoint(self):
        return Endpoint(self.url, self.context, "default", TokenSource(fixed=TOKEN))

    async def __aenter__(self):
        self.clear()
        return self

    async def __aexit__(self, *_):
        self.clear()

    @property
    def writes(self):
        """As many words as the controllers wrote; what they were is not told."""
        made = (client.requests.get(verb, 0) for client in self.clients for verb in ("POST", "PUT", "PATCH"))
        return ["a write"] * sum(made)

    def get(self, kind, name, namespace="default"):
        try:
            return self._ask("GET", self._path(kind, name, namespace))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def objects(self, kind):
        version, plural = next(key for key, known in KINDS.items() if known == kind)
        items = self._ask("GET", self._path(kind))["items"]
        return [{"apiVersion": version, "kind": kind, **item} for item in items if plural]

    def put(self, obj, manager="kubectl-edit"):
        """Create or replace as a user would; a status that is left out stays."""
        metadata = {"namespace": "default", **obj["metadata"]}
        kind, name, status = obj["kind"], metadata["name"], obj.get("status")
        stored = self.get(kind, name)
        new = {**obj, "metadata": metadata}
        query = f"?fieldManager={manager}"
        if stored is None:
            for field in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"):
                metadata.pop(field, None)
            made = self._ask("POST", self._path(kind) + query, new)
        else:
            kept = {
                **stored["metadata"],
                **metadata,
                "resourceVersion": stored["metadata"]["resourceVersion"],
            }
            made = self._ask("PUT", self._path(kind, name) + query, {**new, "metadata": kept})
        if status is not None and kind != "ConfigMap":
            path = self._path(kind, name) + "/status" + query
            with contextlib.suppress(urllib.error.HTTPError):  # kinds without one
                made = self._ask("PUT", path, {**made, "status": status})
        return made

    def delete(self, kind, name, namespace="default"):
        self._ask("DELETE", self._path(kind, name, namespace))

    def clear(self):
        """Delete what tests leave behind, finalizers or not."""
        for kind in CLEARED:
            for obj in self.objects(kind):
                name = obj["metadata"]["name"]
                if name in {"kubernetes", "kube-root-ca.crt"}:
                    continue
                with contextlib.suppress(urllib.error.HTTPError):
                    if obj["metadata"].get("finalizers"):
                        obj["metadata"]["finalizers"] = []
                        self._ask("PUT", self._path(kind, name), obj)
                    self.delete(kind, name)

    def _path(self, kind, name=None, namespace="default"):
        version = next(version for version, known in PLURALS if known == kind)
        plural = PLURALS[version, kind]
        root = "/api" if "/" not in version else "/apis"
        return f"{root}/{version}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")

    def _ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, context=self.context, timeout=30) as answer:
            return json.load(answer)

    def install(self):
        """Add the CRDs: ours, and one that takes anything for KServe's InferenceService."""
        for definition in (load_crd(), _inference_services()):
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            self._ask("POST", path, definition)
        self.until(lambda: (self.objects("TrainedModel"), self.objects("InferenceService")) == ([], []))

    def until(self, true, seconds=60):
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                if true():
                    return
            assert time.monotonic() < deadline, f"{self.url} is not ready within {seconds} s"
            time.sleep(0.1)


@contextlib.contextmanager
def started(folder):
    """Start both programs, the CRDs installed; ends them."""
    programs = assets()
    clients, peers, port = free_ports(3)
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1", "localhost")
    leaf.private_key_pem.write_to_path(str(folder / "tls.key"))
    (folder / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    (folder / "tokens.csv").write_text(f"{TOKEN},tests,tests,system:masters\n")
    etcd = [
        programs / "etcd", f"--data-dir={folder}/etcd", "--unsafe-no-fsync",
        f"--listen-client-urls=http://127.0.0.1:{clients}", f"--advertise-client-urls=http://127.0.0.1:{clients}",
        f"--listen-peer-urls=http://127.0.0.1:{peers}",
    ]  # fmt: skip
    api = [
        programs / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{clients}",
        f"--secure-port={port}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
        f"--tls-cert-file={folder}/tls.crt", f"--tls-private-key-file={folder}/tls.key",
        f"--cert-dir={folder}/certificates", f"--token-auth-file={folder}/tokens.csv",
        "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
        "--service-account-issuer=https://127.0.0.1/", f"--service-account-key-file={folder}/tls.key",
        f"--service-account-signing-key-file={folder}/tls.key", "--disable-admission-plugins=ServiceAccount",
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for command in (etcd, api):
            log = stack.enter_context((folder / f"{command[0].name}.log").open("wb"))
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.kill)
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        server = RealApiServer(f"https://127.0.0.1:{port}", context)
        server.until(lambda: server.objects("ConfigMap") is not None)
        server.install()
        yield server


def _inference_services():
    schema = {"type": "object", "properties": {"spec": ANYTHING, "status": ANYTHING}}
    version = {"name": "v1beta1", "served": True, "storage": True, "subresources": {"status": {}},
               "schema": {"openAPIV3Schema": schema}}  # fmt: skip
    names = {"kind": "InferenceService", "plural": "inferenceservices", "singular": "inferenceservice"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "inferenceservices.serving.kserve.io"},
        "spec": {"group": "serving.kserve.io", "scope": "Namespaced", "names": names, "versions": [version]},
    }
