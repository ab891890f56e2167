"""What `oci://` URIs name and what manifests hold: read, or refused in words; never anything else."""

import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.oci import (
    Files,
    Index,
    Layered,
    blob_of,
    chosen,
    content_of,
    reference_of,
    verified,
)
from agent.core.paths import relative_path
from agent.core.reasons import Reason

HEX = "0123456789abcdef" * 4
HERE = reference_of("oci://r.example/a/b:v1")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
TAR_GZ = "application/vnd.oci.image.layer.v1.tar+gzip"
TITLE = "org.opencontainers.image.title"


def layer(kind="application/octet-stream", title=None, number=0, **notes):
    annotations = ({TITLE: title} if title is not None else {}) | notes
    return {"mediaType": kind, "digest": f"sha256:{number:064x}", "size": 3, "annotations": annotations}


def read(layers, *, config="application/vnd.oci.empty.v1+json", kind=MANIFEST, **more):
    document = {"schemaVersion": 2, "mediaType": kind, "config": {"mediaType": config}, "layers": layers}
    return content_of(json.dumps(document | more).encode(), kind, HERE)


@pytest.mark.parametrize(
    ("uri", "host", "path"),
    [
        ("oci://r.example/m", "r.example", "/v2/m/manifests/latest"),
        ("oci://R.Example:5000/a/b_c:V1.2", "r.example:5000", "/v2/a/b_c/manifests/V1.2"),
        (f"oci://localhost/m@sha256:{HEX}", "localhost", f"/v2/m/manifests/sha256:{HEX}"),
        (f"oci://[::1]:5000/m:v1@sha256:{HEX}", "[::1]:5000", f"/v2/m/manifests/sha256:{HEX}"),
        ("oci://docker.io/busybox", "registry-1.docker.io", "/v2/library/busybox/manifests/latest"),
        ("oci://docker.io/org/m:1", "registry-1.docker.io", "/v2/org/m/manifests/1"),
    ],
)
def test_a_uri_names_a_manifest_of_a_registry(uri, host, path):
    found = reference_of(uri)
    assert (found.host, found.path) == (host, path)
    assert reference_of(str(found)) == found


@pytest.mark.parametrize(
    "rest",
    [
        "", "m", "busybox:1", "org/model", "r.example", "r.example/", "r.example/M", "r.example/a//b",
        "r.example/a/../b", "r.example/m:", "r.example/m:a/b", "r.example/m@sha256:12",
        "r.example/m@sha512:1", f"r.example/m@sha256:{HEX.upper()}",
        "r.example/m?x=1", "r.example/m#x", "user:pass@r.example/m",
        "r.example:port/m", "r.exam ple/m", "r.example/" + "a" * 256, "-r.example/m",
        "r.example/m:" + "v" * 129,
    ],
)  # fmt: skip
def test_what_names_no_manifest_is_refused_without_its_userinfo(rest):
    with pytest.raises(TerminalError) as caught:
        reference_of(f"oci://{rest}")
    assert caught.value.reason is Reason.INVALID_STORAGE_URI
    assert "pass" not in caught.value.message


@given(st.text(max_size=80))
def test_any_text_names_a_plain_place_of_a_registry_or_is_refused(text):
    try:
        found = reference_of(f"oci://{text}")
    except TerminalError as error:
        assert error.reason is Reason.INVALID_STORAGE_URI  # noqa: PT017 - it may as well be read
    else:
        assert re.fullmatch(r"/v2/[a-z0-9][a-z0-9._/-]*/manifests/[\w.:-]+", found.path, re.ASCII)
        assert not {"", ".", ".."} & set(found.path[1:].split("/"))
        assert reference_of(str(found)) == found


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_only_the_very_bytes_of_a_digest_are_taken_for_it(raw, other):
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    pinned = blob_of(f"r.example/m@{digest}")
    assert verified(raw, None, pinned) == verified(raw, digest, HERE) == digest
    if other != raw:
        with pytest.raises(TerminalError) as caught:
            verified(other, digest, pinned)
        with pytest.raises(RetryableError):
            verified(other, digest, HERE)
        assert caught.value.reason is Reason.INTEGRITY_MISMATCH


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([MANIFEST, INDEX, HEX]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "mediaType",
                    "layers",
                    "manifests",
                    "config",
                    "digest",
                    "size",
                    "annotations",
                    "platform",
                    TITLE,
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from([None, MANIFEST, INDEX, "text/html"]))
def test_any_document_is_read_or_refused_in_words(document, kind):
    try:
        found = content_of(json.dumps(document).encode(), kind, HERE)
    except AgentError as error:
        assert str(HERE) in error.message[:100]  # noqa: PT017 - it may as well be read
    else:
        assert isinstance(found, Files | Layered | Index)


PATHS = st.lists(
    st.sampled_from(["a", "b/c", "b/d", "model.bin", "../x", "/etc/passwd", "b", "x\\y", ""]), max_size=5
)


@given(PATHS)
def test_files_are_listed_sorted_below_the_folder_and_beside_each_other_or_not_at_all(titles):
    layers = [layer(title=title, number=number) for number, title in enumerate(titles)]
    try:
        found = read(layers)
    except TerminalError as error:
        assert error.reason in {Reason.INVALID_OBJECT_KEY, Reason.NOT_FOUND}  # noqa: PT017 - as above
    else:
        there = [each.title for each in found.layers]
        assert there == sorted(titles) == [relative_path(each) for each in there]
        assert len(set(there)) == len(there)


@pytest.mark.parametrize(
    ("layers", "more", "said"),
    [
        ([], {}, "no layers"),
        ([layer("application/vnd.oci.empty.v1+json")], {}, "no layers"),
        ([layer(title="a"), layer("application/x-notes")], {}, "without a title, of the type"),
        ([layer(title="a"), *[layer(TAR_GZ, "d")] * 257], {}, "more than 256 archives"),
        ([layer() | {"digest": "sha512:" + "0" * 128}], {}, "digest 'sha512'; sha256 is"),
        ([layer() | {"digest": "../../x"}], {}, "digest 'none'"),
        ([{"mediaType": "x", "digest": f"sha256:{HEX}"}], {}, "without a digest, a size or a type"),
        ([layer("text/plain")], {"config": IMAGE_CONFIG}, "a layer of the type 'text/plain'"),
        ([layer()], {"manifests": []}, "an index and a manifest at once"),
        ([layer()], {"kind": "application/vnd.docker.distribution.manifest.v1+json"}, "v1.json'; image"),
        ([layer()], {"kind": "application/vnd.oci.artifact.manifest.v1+json"}, "artifact.manifest.v1"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named_with_what_is(layers, more, said):
    with pytest.raises(TerminalError, match=said):
        read(layers, **more)


def test_an_image_is_its_layers_in_order_below_models():
    layers = [layer(TAR_GZ, number=2), layer("application/vnd.docker.image.rootfs.diff.tar.gzip", number=1)]
    found = read(layers, config=IMAGE_CONFIG)
    assert (found.below, [each.sha256[-1] for each in found.layers]) == ("models", ["2", "1"])


@pytest.mark.parametrize(
    "packed",
    [
        layer("application/vnd.cncf.model.weight.v1.tar", "m"),
        layer("application/vnd.kitops.modelkit.model.v1.tar+gzip"),
        layer("application/x", "folder", **{"io.deis.oras.content.unpack": "true"}),
        layer(TAR_GZ, "folder"),
    ],
)
def test_a_packed_folder_is_told_from_a_file(packed):
    assert read([packed]) == Layered(read([packed]).layers, None)
    assert read([packed]).layers[0].packed
    beside = read([packed, layer(title="config.json", number=1)])
    assert [each.packed for each in beside.layers] == [True, False]
    assert isinstance(read([layer("application/vnd.oci.image.layer.v1.tar", "model.bin")]), Files)
    assert isinstance(read([layer("application/vnd.cncf.model.weight.v1.raw", "model.bin")]), Files)


def test_the_path_that_modelpack_writes_is_a_title_too():
    found = read([layer(**{"org.cncf.model.filepath": "sub/model.gguf"})])
    assert found.layers[0].title == "sub/model.gguf"


def choice(number, platform=None, **notes):
    found = {"mediaType": MANIFEST, "digest": f"sha256:{number:064x}", "size": 3, "annotations": notes}
    if platform is None:
        return found
    system, _, machine = platform.partition("/")
    return found | {"platform": {"os": system, "architecture": machine}}


ATTESTED = choice(9, "unknown/unknown", **{"vnd.docker.reference.type": "attestation-manifest"})


@pytest.mark.parametrize(
    ("choices", "taken"),
    [
        ([choice(1, "linux/amd64"), choice(2, "linux/arm64")], 2),
        ([choice(1, "linux/amd64"), ATTESTED], 1),
        ([choice(1), ATTESTED], 1),
        ([choice(1, "linux/amd64"), choice(2, "linux/s390x")], None),
        ([choice(1), choice(2)], None),
        ([ATTESTED], None),
        ([], None),
    ],
)
def test_of_an_index_ours_is_taken_else_the_only_one_else_none(choices, taken):
    index = content_of(json.dumps({"mediaType": INDEX, "manifests": choices}).encode(), None, HERE)
    if taken is None:
        with pytest.raises(TerminalError, match="no manifest for linux/arm64, only for: ") as caught:
            chosen(index, "linux/arm64", HERE)
        assert caught.value.reason is Reason.NOT_FOUND
    else:
        assert chosen(index, "linux/arm64", HERE).digest == f"sha256:{taken:064x}"
