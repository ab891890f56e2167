import base64
import json
import sys

import pytest
import trustme
import yaml

from agent.core.errors import RetryableError, TerminalError
from agent.kube.endpoint import TokenSource, from_kubeconfig, in_cluster


def kubeconfig(tmp_path, user, cluster=None):
    path = tmp_path / "config"
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "n"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:6443/"} | (cluster or {})}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


async def test_a_kubeconfig_gives_url_namespace_and_token(tmp_path):
    authority = trustme.CA()
    data = base64.b64encode(authority.cert_pem.bytes()).decode()
    endpoint = from_kubeconfig(
        kubeconfig(tmp_path, {"token": "t0ken"}, {"certificate-authority-data": data}), {}
    )
    assert (endpoint.url, endpoint.namespace) == ("https://127.0.0.1:6443", "n")
    assert await endpoint.token.get() == "t0ken"
    assert "t0ken" not in repr(endpoint)


async def test_a_client_certificate_is_loaded(tmp_path):
    leaf = trustme.CA().issue_cert("me")
    key, certificate = leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes()
    user = {
        "client-certificate-data": base64.b64encode(certificate).decode(),
        "client-key-data": base64.b64encode(key).decode(),
    }
    assert from_kubeconfig(kubeconfig(tmp_path, user), {}).ssl_context is not None


async def test_a_command_of_the_kubeconfig_gives_the_token(tmp_path):
    program = (
        "import json, os; json.loads(os.environ['KUBERNETES_EXEC_INFO']);"
        "print(json.dumps({'status': {'token': os.environ['T']}}))"
    )
    environment = [{"name": "T", "value": "made"}]
    user = {"exec": {"command": sys.executable, "args": ["-c", program], "env": environment}}
    assert await from_kubeconfig(kubeconfig(tmp_path, user), {}).token.get() == "made"
    user["exec"]["command"] = "/no/such/command"
    with pytest.raises(RetryableError, match="run it by hand"):
        await from_kubeconfig(kubeconfig(tmp_path, user), {}).token.get()


@pytest.mark.parametrize("text", ["", "[]", "{", "current-context: c", json.dumps({"contexts": 5})])
def test_a_kubeconfig_that_is_none_is_refused_in_words(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(TerminalError, match="kubeconfig"):
        from_kubeconfig(path, {})


def test_what_is_not_supported_is_named(tmp_path):
    with pytest.raises(TerminalError, match="auth-provider is not supported"):
        from_kubeconfig(kubeconfig(tmp_path, {"auth-provider": {"name": "gcp"}}), {})


async def test_the_service_account_of_a_pod_is_used_and_its_token_read_again(tmp_path):
    (tmp_path / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    (tmp_path / "token").write_text("one\n")
    (tmp_path / "namespace").write_text("ns")
    endpoint = in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path)
    assert (endpoint.url, endpoint.namespace, await endpoint.token.get()) == (
        "https://[fd00::1]:443",
        "ns",
        "one",
    )
    (tmp_path / "token").write_text("two\n")
    assert await endpoint.token.get() == "one"
    endpoint.token.forget()
    assert await endpoint.token.get() == "two"


def test_outside_a_pod_the_error_says_what_to_give():
    with pytest.raises(TerminalError, match="--kubeconfig"):
        in_cluster({})


async def test_no_token_is_no_header():
    assert await TokenSource().get() is None
