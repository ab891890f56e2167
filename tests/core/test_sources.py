"""What KServe's storage initializer would read: taken as something else, as it is, or refused in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import uri as uris
from agent.core.initializer import InitializerError, effective
from agent.core.sources import SourceError, notes, source_of
from agent.storage.azure_uri import account_of, place_of

PLAIN = [
    "s3://b/m",
    "gs://b/m",
    "https://h/m.zip",
    "file:///m",
    "/mnt/pvc/m",
    "hf://o/m",
    "oci://r.io/m",
    "webhdfs://h:1/m",
]


@pytest.mark.parametrize("uri", PLAIN)
def test_what_is_read_is_asked_as_it_is(uri):
    found = source_of(uri, {"A": "b"}, azure=True)
    assert (found.uri, found.environ, found.note) == (uri, {"A": "b"}, None)


@pytest.mark.parametrize(
    ("uri", "environ", "said"),
    [
        ("hdfs://n/m", {}, "HDFS"),
        ("webhdfs://m", {"HDFS_NAMENODE": "n"}, "HDFS"),
        ("modelscope://o/m", {}, "ModelScope"),
        ("https://user:secret@host/o/r.git", {}, "archive of a commit"),
        ("https://acc.file.core.windows.net/share/m?sig=secret", {}, "mount the share"),
        ("s3://b/m", {"CONFIDENTIAL_ENABLED": "true"}, "decrypted"),
    ],
)
def test_what_is_not_read_is_refused_in_one_line_without_secrets(uri, environ, said):
    with pytest.raises(SourceError, match=said) as caught:
        source_of(uri, environ, azure=True)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["acc1.blob.core.windows.net", "acc1.z22.blob.storage.azure.net"])
def test_an_azure_blob_is_asked_by_azures_own_protocol_of_the_account_in_its_name(host):
    found = source_of(f"https://{host}/models/a/b?sv=1&sig=x", {"AZURE_STORAGE_ACCESS_KEY": "k"}, azure=True)
    assert found.uri == "abfs://models/a/b"
    assert found.environ["AZURE_STORAGE_ACCOUNT_NAME"] == "acc1"
    assert found.environ["AZURE_STORAGE_SAS_TOKEN"] == "sv=1&sig=x"
    assert found.environ["AZURE_STORAGE_ACCESS_KEY"] == "k"
    plain = source_of(f"https://{host}/models/a/b", {}, azure=False)
    assert plain.uri.startswith("https://")
    assert "extra azure" in plain.note


def test_a_number_of_parallel_files_is_taken_and_told():
    assert notes({}) == ()
    (told,) = notes({"S3_MAX_FILE_CONCURRENCY": "4", "AZURE_MAX_CHUNK_CONCURRENCY": "2"})
    assert told.startswith("S3_MAX_FILE_CONCURRENCY, AZURE_MAX_CHUNK_CONCURRENCY: ")


@pytest.mark.parametrize("kind", ["hdfs", "webhdfs", "azure", "gs", 7])
def test_a_storage_config_of_another_type_is_refused(kind):
    config = f'{{"type": "{kind}", "secret": "hidden"}}'
    with pytest.raises(InitializerError, match="only s3") as caught:
        effective({"STORAGE_CONFIG": config})
    assert "hidden" not in str(caught.value)
    assert effective({"STORAGE_CONFIG": '{"type": ""}'})


@given(st.text(max_size=30) | st.text(max_size=20).map("https://".__add__))
def test_any_text_is_asked_or_refused(uri):
    try:
        found = source_of(uri, {}, azure=True)
    except SourceError:
        return
    assert uris.scheme_of(found.uri) == uris.scheme_of(uri) or found.uri.startswith("abfs://")


def test_what_an_azure_url_says_is_the_account_that_is_asked():
    found = source_of(
        "https://acc1.z2.blob.storage.azure.net/models/a?sig=x", {"AZURE_ACCOUNT_NAME": "other"}, azure=True
    )
    account = account_of(found.environ, place_of(found.uri))
    assert (account.url, account.sas) == ("https://acc1.z2.blob.storage.azure.net", "sig=x")
    assert not account.judged
