"""The S3 variables, in KServe's spelling."""

import pytest

from agent.core.errors import TerminalError
from agent.core.reasons import Reason
from agent.storage.s3_settings import S3Settings, s3_settings


def test_nothing_set_means_amazon_with_virtual_hosts_and_its_own_chain():
    assert s3_settings({}) == S3Settings()


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"AWS_ENDPOINT_URL": "http://minio:9000/"}, "http://minio:9000"),
        ({"AWS_ENDPOINT_URL": "http://a", "S3_ENDPOINT": "b"}, "http://a"),
        ({"S3_ENDPOINT": "minio:9000"}, "https://minio:9000"),
        ({"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "0"}, "http://minio:9000"),
        ({"S3_ENDPOINT": "http://minio", "S3_USE_HTTPS": "1"}, "http://minio"),
        ({"AWS_ENDPOINT_URL": "", "S3_ENDPOINT": " "}, None),
    ],
)
def test_the_endpoint_is_kserves(environ, endpoint):
    assert s3_settings(environ).endpoint == endpoint


@pytest.mark.parametrize(
    ("environ", "bucket", "style"),
    [
        ({}, "models", "virtual"),
        ({"S3_USER_VIRTUAL_BUCKET": "False"}, "models", "path"),
        ({}, "dotted.models", "path"),
        ({"AWS_ENDPOINT_URL": "http://minio.svc:9000"}, "models", "virtual"),
        ({"AWS_ENDPOINT_URL": "http://localhost:9000"}, "models", "path"),
        ({"AWS_ENDPOINT_URL": "http://10.0.0.1:9000"}, "models", "path"),
        ({"AWS_ENDPOINT_URL": "http://[fd00::1]:9000"}, "models", "path"),
    ],
)
def test_buckets_are_virtual_hosts_unless_they_could_not_resolve(environ, bucket, style):
    assert s3_settings(environ).addressing(bucket) == style


def test_every_other_variable_is_read():
    settings = s3_settings(
        {
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_REGION": "us-west-2",
            "S3_USE_ACCELERATE": "true",
            "awsAnonymousCredential": "True",
            "S3_VERIFY_SSL": "0",
            "AWS_CA_BUNDLE": "/not/used",
            "S3_CONNECT_TIMEOUT": "5",
            "S3_READ_TIMEOUT": "7.5",
            "S3_MAX_ATTEMPTS": "9",
            "AWS_PROFILE": "team",
            "AWS_CONFIG_FILE": "/c",
            "AWS_SHARED_CREDENTIALS_FILE": "/s",
        }
    )
    assert settings == S3Settings(
        region="eu-west-1",
        accelerate=True,
        anonymous=True,
        verify=False,
        connect_seconds=5,
        read_seconds=7.5,
        attempts=9,
        profile="team",
        config_file="/c",
        credentials_file="/s",
    )
    assert s3_settings({"AWS_REGION": "us-west-2"}).region == "us-west-2"


def test_aws_ca_bundle_wins_over_the_config_map():
    mounted = {"CA_BUNDLE_CONFIGMAP_NAME": "c", "CA_BUNDLE_VOLUME_MOUNT_POINT": "/etc/ssl/x"}
    assert s3_settings(mounted).ca_bundle == "/etc/ssl/x/cabundle.crt"
    assert s3_settings({**mounted, "AWS_CA_BUNDLE": "/own.pem"}).ca_bundle == "/own.pem"
    assert s3_settings({"CA_BUNDLE_VOLUME_MOUNT_POINT": "/etc/ssl/x"}).ca_bundle is None


@pytest.mark.parametrize(
    ("environ", "names", "reason"),
    [
        ({"S3_USE_ACCELERATE": "maybe"}, "S3_USE_ACCELERATE", Reason.STORAGE_ERROR),
        ({"S3_READ_TIMEOUT": "soon"}, "S3_READ_TIMEOUT", Reason.STORAGE_ERROR),
        ({"S3_MAX_ATTEMPTS": "nan"}, "S3_MAX_ATTEMPTS", Reason.STORAGE_ERROR),
        ({"AWS_ENDPOINT_URL": "ftp://x"}, "AWS_ENDPOINT_URL", Reason.STORAGE_ERROR),
        ({"AWS_ENDPOINT_URL": "http://user:secret@x"}, "AWS_ENDPOINT_URL", Reason.STORAGE_ERROR),
        ({"S3_ENDPOINT": "http://"}, "S3_ENDPOINT", Reason.STORAGE_ERROR),
        ({"AWS_ACCESS_KEY_ID": "AKIA"}, "AWS_SECRET_ACCESS_KEY", Reason.INVALID_CREDENTIALS),
        ({"AWS_SECRET_ACCESS_KEY": "secret"}, "AWS_ACCESS_KEY_ID", Reason.INVALID_CREDENTIALS),
    ],
)
def test_a_bad_value_is_named_and_not_shown(environ, names, reason):
    with pytest.raises(TerminalError) as caught:
        s3_settings(environ)
    assert caught.value.reason is reason
    assert names in caught.value.message
    assert "secret" not in caught.value.message


def test_keys_are_in_no_repr():
    settings = s3_settings(
        {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s3cr3t", "AWS_SESSION_TOKEN": "t0k3n"}
    )
    assert "s3cr3t" not in repr(settings)
    assert "t0k3n" not in repr(settings)
