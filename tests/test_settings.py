"""Flags and environment: read once, alike, and every fault told together."""

from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.flagvalues import duration
from agent.core.reach import Denied
from agent.settings import (
    FLAGS,
    KSERVE_IGNORED,
    SWITCHES,
    Settings,
    memory,
    read_settings,
)
from agent.usage import UsageError


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.default], ids=lambda flag: flag.name)
def test_every_flag_is_also_an_environment_variable_and_the_flag_wins(flag):
    other = {"true": "false", "false": "true"}.get(flag.default, flag.default)
    by_env = read_settings([], {flag.env: other})
    assert by_env == read_settings([f"--{flag.name}={other}"], {flag.env: flag.default})


def test_kserves_own_arguments_are_understood_as_its_injector_writes_them():
    words = [
        "--enable-puller",
        "--config-dir",
        "/mnt/configs",
        "--model-dir",
        "/mnt/models",
        "--component-port",
        "8080",
    ]
    settings = read_settings([*words, "--logger-tls-skip-verify", "false", "--log-mode", "all"], {})
    assert settings.enable_puller
    assert (settings.status_host, settings.component_port) == ("0.0.0.0", 8080)
    assert settings.ignored == ("--log-mode", "--logger-tls-skip-verify")


def test_the_status_port_is_on_loopback_and_metadata_is_denied_unless_told_otherwise():
    settings = read_settings([], {})
    assert settings.status_host == "127.0.0.1"
    assert Denied(settings.deny_address)(ip_address("169.254.169.254"))


@pytest.mark.parametrize("name", KSERVE_IGNORED)
def test_each_other_flag_of_kserves_agent_is_taken(name):
    assert read_settings([f"--{name}=1"], {}).ignored == (f"--{name}",)


def test_all_faults_are_told_at_once():
    with pytest.raises(UsageError) as refused:
        read_settings(
            ["--memroy-budget=1Gi", "--port", "http"],
            {"MODELAGENT_RESYNC_INTERVAL": "soon", "MODELAGENT_X": "1"},
        )
    text = str(refused.value)
    assert "--memroy-budget" in text
    assert "did you mean --memory-budget" in text
    assert "--port" in text
    assert "MODELAGENT_RESYNC_INTERVAL" in text
    assert "MODELAGENT_X: there is no such setting" in text


def test_a_kubernetes_service_called_model_agent_sets_nothing():
    assert read_settings([], {"MODEL_AGENT_PORT": "tcp://10.0.0.1:80"}) == read_settings([], {})


@pytest.mark.parametrize(
    ("text", "seconds"), [("10", 10), ("10s", 10), ("1m", 60), ("1h30m", 5400), ("0", 0), ("0.5s", 0.5)]
)
def test_durations_as_people_write_them(text, seconds):
    assert duration(text) == seconds


@given(st.text())
def test_whatever_is_written_is_a_duration_or_a_value_error(text):
    with suppress(ValueError):
        assert duration(text) >= 0


@given(st.sampled_from([flag for flag in FLAGS if flag.name not in SWITCHES]), st.text(max_size=20))
def test_whatever_is_written_is_settings_or_a_usage_error(flag, text):
    with suppress(UsageError):
        assert isinstance(read_settings([f"--{flag.name}={text}"], {}), Settings)


def test_the_overhead_comes_off_the_budget():
    settings = read_settings(["--memory-budget=1Gi", "--server-overhead=256Mi"], {})
    assert settings.budget_bytes == 768 * 2**20
    assert read_settings([], {}).budget_bytes is None
    assert memory("none") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--server-url=localhost:8080", "http://host:port"),
        ("--server-url=ftp://h:1", "http://host:port"),
        ("--server-url=http://h:port", "http://host:port"),
        ("--server-url=http://h:0", "http://host:port"),
        ("--server-url=http://", "http://host:port"),
        ("--server-url=unix://run/server.sock", "unix:///path"),
        ("--server-url=unix://", "unix:///path"),
        ("--resync-interval=0", "at least 0.1s"),
        ("--resync-interval=31000h", "30 days"),
        ("--refresh-interval=0.5s", "0, or at least 1s"),
        ("--load-timeout=0", "at least 1s"),
        ("--timeout=0", "at least 0.1s"),
        ("--drain-quiet=800h", "30 days"),
        ("--bandwidth-limit=0", "at least 1Ki"),
        ("--max-concurrent-downloads=0", "1 to 1000"),
        ("--max-connections=1000000", "1 to 1000"),
        ("--max-removal=0", "1 to"),
        ("--component-port=0", "1 to 65535"),
        ("--memory-budget=1Gi --server-overhead=2Gi", "leaves nothing"),
    ],
)
def test_what_could_never_work_is_refused_with_what_would(words, said):
    with pytest.raises(UsageError, match=f"--.*{said}"):
        read_settings(words.split(), {})


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "https://server/prefix", "http://[::1]:80", "unix:///run/s.sock"]
)
def test_an_address_that_a_server_can_have_is_taken(url):
    assert read_settings([f"--server-url={url}"], {}).server_url == url


def test_a_bad_server_address_is_told_without_its_password():
    with pytest.raises(UsageError) as refused:
        read_settings(["--server-url=http://me:hunter2@h:port"], {})
    assert "hunter2" not in str(refused.value)
