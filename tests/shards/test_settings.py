"""Several databases in the environment, and what is refused."""

import pytest

from services.runtime.serve import metrics_ports
from services.runtime.supervisor import processes_of
from services.settings import Settings, SettingsError
from services.shards.arithmetic import Shard

TWO = {"RESOLUTION_DATABASE_URL": "postgresql://one/r  postgresql://two/r"}


def test_each_shard_has_its_url_and_its_place():
    shards = Settings.from_environment(TWO).shards
    assert [(one.database, one.shard) for one in shards] == [
        ("postgresql://one/r", Shard(0, 2)),
        ("postgresql://two/r", Shard(1, 2)),
    ]
    [alone] = Settings.from_environment({"RESOLUTION_DATABASE_URL": "postgresql://one/r"}).shards
    assert alone.shard.alone
    assert shards[1].shard.partitions(8) == [1, 3, 5, 7]


def test_a_child_process_gets_the_same_settings():
    settings = Settings.from_environment(TWO | {"RESOLUTION_SHARD": "1"})
    assert Settings.from_environment(settings.as_environment()) == settings


def test_each_role_has_a_process_for_each_shard_and_a_port_of_its_own():
    settings = Settings.from_environment(TWO | {"RESOLUTION_METRICS_PORT": "9000"})
    assert processes_of(settings, "relay") == ["relay.0", "relay.1"]
    assert metrics_ports(settings, ["relay"], ["commands", "relay", "http"]) == {"relay.0": 9000, "relay.1": 9001}
    every = metrics_ports(settings, ["commands", "relay", "http"], ["commands", "relay", "http"])
    assert every == {"commands.0": 9000, "commands.1": 9003, "relay.0": 9001, "relay.1": 9004, "http": 9002}
    one = Settings.from_environment(TWO | {"RESOLUTION_METRICS_PORT": "9000", "RESOLUTION_SHARD": "1"})
    assert metrics_ports(one, ["relay"], ["commands", "relay", "http"]) == {"relay.1": 9000}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"RESOLUTION_DATABASE_URL": "postgresql://one/r postgresql://one/r"}, "the same database twice"),
        ({"RESOLUTION_SHARD": "2"}, "from 0 to 1"),
        ({"RESOLUTION_SHARD": "first"}, "from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, str], said: str):
    with pytest.raises(SettingsError, match=said):
        Settings.from_environment(TWO | wrong)


@pytest.mark.parametrize("servers", ["127.0.0.1:99999", "nonsense", ",,", "one:0", "one:9092,", "::1:9092"])
def test_what_are_no_bootstrap_servers_is_refused(servers: str):
    with pytest.raises(SettingsError, match=r"RESOLUTION_KAFKA_SERVERS is .*HOST:PORT"):
        Settings.from_environment({"RESOLUTION_KAFKA_SERVERS": servers})


def test_bootstrap_servers_may_have_spaces_and_addresses_in_brackets():
    env = {"RESOLUTION_KAFKA_SERVERS": " one:9092, [::1]:9093 "}
    assert Settings.from_environment(env).kafka_servers == "one:9092,[::1]:9093"


@pytest.mark.parametrize("prefix", ["a/b", "x" * 300, "ü."])
def test_what_cannot_be_part_of_a_topics_name_is_refused(prefix: str):
    with pytest.raises(SettingsError, match="RESOLUTION_TOPIC_PREFIX is "):
        Settings.from_environment({"RESOLUTION_TOPIC_PREFIX": prefix})


@pytest.mark.parametrize("port", ["0", "65536", "99999999"])
def test_a_databases_port_that_cannot_be_is_refused(port: str):
    with pytest.raises(SettingsError, match="from 1 to 65535"):
        Settings.from_environment({"RESOLUTION_DATABASE_URL": f"postgresql://u@h:{port}/d"})
