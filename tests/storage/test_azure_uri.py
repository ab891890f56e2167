"""What an `abfs://` URI and the environment name, and what Azure's refusals mean: the pure parts."""

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.storage.azure_errors import Standing, azure_error
from agent.storage.azure_uri import account_of, place_of

ACCOUNT = "acc1.blob.core.windows.net"


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("abfs://c", ("c", None, "", None)),
        ("az://c/", ("c", None, "", None)),
        ("abfss://c@acc1.dfs.core.windows.net/a/b", ("c", ACCOUNT, "a/b", None)),
        ("abfs://c@acc1.blob.core.windows.net/a", ("c", ACCOUNT, "a", None)),
        ("abfs://acc1.dfs.core.windows.net/c/a", ("c", ACCOUNT, "a", None)),
        ("abfs://c@acc1.z22.dfs.storage.azure.net/a", ("c", "acc1.z22.blob.storage.azure.net", "a", None)),
        ("abfs://$web/a@b", ("$web", None, "a@b", None)),
        ("abfs://c/per%20cent?x#y", ("c", None, "per%20cent?x#y", None)),
        ("abfs://c/a?versionid=2026-08-01T10:00:00.0Z", ("c", None, "a", "2026-08-01T10:00:00.0Z")),
    ],
)
def test_a_uri_names_container_account_key_and_version(uri, place):
    found = place_of(uri)
    assert (found.container, found.host, found.key, found.version) == place


@pytest.mark.parametrize(
    "uri",
    [
        "abfs://", "abfs:///a", "abfs://c@evil.example/a", "abfs://c@acc1.dfs.core.windows.net.evil.example/a",
        "abfs://c@acc1.dfs.core.windows.net:81/a", "abfs://u:CANARY@acc1.dfs.core.windows.net/a",
        "abfs://c@x/@acc1.dfs.core.windows.net/a", "abfs://c/a\nb", "abfs://c d/a",
    ],
)  # fmt: skip
def test_what_names_no_container_of_azure_is_refused_and_a_password_not_repeated(uri):
    with pytest.raises(TerminalError) as caught:
        place_of(uri)
    assert caught.value.reason is Reason.INVALID_STORAGE_URI
    assert "CANARY" not in str(caught.value)


@given(st.text())
def test_any_uri_is_a_place_of_azures_or_refused(text):
    try:
        place = place_of(f"abfs://{text}")
    except TerminalError:
        return
    assert place.host is None or place.host.endswith((".core.windows.net", ".storage.azure.net"))
    again = place_of(f"abfs://{place.name}/{place.key}")
    assert (again.container, again.host) == (place.container, place.host)


def account(environ, uri="abfs://c/m"):
    return account_of(environ, place_of(uri))


def test_the_environments_account_goes_before_the_uris_and_is_not_judged():
    uri = "abfs://c@acc1.dfs.core.windows.net/m"
    assert account({}, uri).url == f"https://{ACCOUNT}"
    assert account({}, uri).judged
    ours = account({"AZURE_STORAGE_ACCOUNT_NAME": "acc2"}, uri)
    assert (ours.url, ours.judged) == ("https://acc2.blob.core.windows.net", False)
    string = account({"AZURE_STORAGE_CONNECTION_STRING": "x", "AZURE_STORAGE_ACCOUNT_NAME": "acc2"}, uri)
    assert (string.connection, string.judged, string.plain) == ("x", False, False)
    emulator = "DefaultEndpointsProtocol=http;BlobEndpoint=http://127.0.0.1:1/a;"
    assert account({"AZURE_STORAGE_CONNECTION_STRING": emulator}).plain


def test_an_id_without_a_secret_is_a_workloads_and_no_service_principal():
    whole = {
        "AZURE_STORAGE_ACCOUNT_NAME": "a",
        "AZ_CLIENT_ID": "i",
        "AZ_TENANT_ID": "t",
        "AZ_CLIENT_SECRET": "s",
    }
    assert account(whole).principal
    assert not account({**whole, "AZ_CLIENT_SECRET": ""}).principal


def test_no_account_at_all_is_told_with_what_to_set():
    for environ in ({}, {"AZURE_STORAGE_ACCOUNT_NAME": "a/../b?"}):
        with pytest.raises(TerminalError, match="AZURE_STORAGE_ACCOUNT_NAME") as caught:
            account(environ)
        assert caught.value.reason is Reason.INVALID_CREDENTIALS


def test_no_secret_of_an_account_is_shown():
    environ = {
        "AZURE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCESS_KEY": "CANARY", "AZURE_CLIENT_SECRET": "CANARY",
        "AZURE_STORAGE_SAS_TOKEN": "?sig=CANARY",
    }  # fmt: skip
    assert "CANARY" not in repr(account(environ))
    assert account(environ).sas == "sig=CANARY"


@pytest.mark.parametrize(
    ("status", "code", "listed", "reason"),
    [
        (404, "BlobNotFound", False, Reason.NOT_FOUND),
        (404, "BlobNotFound", True, Reason.SNAPSHOT_CHANGED),
        (412, "ConditionNotMet", True, Reason.SNAPSHOT_CHANGED),
        (409, "BlobArchived", True, Reason.OBJECT_ARCHIVED),
        (409, "PublicAccessNotPermitted", False, Reason.ACCESS_DENIED),
        (403, "AuthorizationPermissionMismatch", False, Reason.ACCESS_DENIED),
        (401, "NoAuthenticationInformation", False, Reason.ACCESS_DENIED),
        (503, "ServerBusy", False, Reason.STORAGE_THROTTLED),
        (500, "OperationTimedOut", False, Reason.STORAGE_THROTTLED),
        (500, "", False, Reason.STORAGE_UNAVAILABLE),
        (429, "<script>", False, Reason.STORAGE_THROTTLED),
    ],
)
def test_azures_word_says_what_a_refusal_means(status, code, listed, reason):
    error = azure_error(status, {"x-ms-error-code": code}, "abfs://c/m", Standing(), listed=listed)
    assert error.reason is reason
    assert "<" not in error.message


def test_a_signature_refused_under_a_wrong_clock_is_clock_skew():
    headers = {"x-ms-error-code": "AuthenticationFailed", "date": formatdate(time.time() - 3600, usegmt=True)}
    error = azure_error(403, headers, "abfs://c/m", Standing())
    assert (type(error), error.reason) == (RetryableError, Reason.CLOCK_SKEW)
    headers["date"] = formatdate(usegmt=True)
    assert azure_error(403, headers, "abfs://c/m", Standing()).reason is Reason.ACCESS_DENIED
