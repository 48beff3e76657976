"""Starts real Apache Kafka and PostgreSQL once for a test run, in its own folders and on its own ports.

RESOLUTION_TEST_SERVERS chooses: `docker` (testcontainers; the default where an engine answers that has the images or
can pull them), `embedded`, or `external` (those of RESOLUTION_DATABASE_URL and RESOLUTION_KAFKA_SERVERS).
"""

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

from services.embedded import Servers, embedded

_KAFKA_IMAGE = "apache/kafka:4.1.1"
_POSTGRES_IMAGE = "postgres:18"


@contextmanager
def servers() -> Iterator[Servers]:
    kind = os.environ.get("RESOLUTION_TEST_SERVERS") or ("docker" if _docker_serves() else "embedded")
    match kind:
        case "docker":
            with _docker() as found:
                yield found
        case "embedded":
            with (
                tempfile.TemporaryDirectory(prefix="rc-", ignore_cleanup_errors=True) as folder,
                embedded(Path(folder)) as found,
            ):
                _skip_fsync(found)
                yield found
                _kill_kafka(Path(folder))
        case "external":
            yield Servers(database=os.environ["RESOLUTION_DATABASE_URL"], kafka=os.environ["RESOLUTION_KAFKA_SERVERS"])
        case _:
            raise ValueError(f"RESOLUTION_TEST_SERVERS is {kind!r}; say docker, embedded or external.")


def _skip_fsync(servers: Servers) -> None:
    """Tests kill PostgreSQL, and no test stops the machine. Each drops its database, which would flush all others."""
    with psycopg.connect(str(servers.database), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")


def _kill_kafka(folder: Path) -> None:
    """Kills the broker: its data is deleted anyway, and an orderly end takes half a minute after many tests."""
    process = psutil.Process(json.loads((folder / "kafka" / "state.json").read_text())["pid"])
    process.kill()
    process.wait(30)


def _docker_serves() -> bool:
    return _docker_has(_KAFKA_IMAGE) and _docker_has(_POSTGRES_IMAGE)


def _docker_has(image: str) -> bool:
    """Whether a container engine answers, and the image exists or could be pulled."""
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        engine = docker.from_env()
        try:
            engine.images.get(image)
        except ImageNotFound:
            engine.images.pull(image)
    except (DockerException, OSError):
        return False
    return True


@contextmanager
def _docker() -> Iterator[Servers]:
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    # The container that would clean up after a killed run is a nicety: without it the tests run all the same.
    testcontainers_config.ryuk_disabled = not _docker_has(testcontainers_config.ryuk_image)
    port = _free_port()
    kafka = (
        DockerContainer(_KAFKA_IMAGE)
        .with_bind_ports(port, port)
        .with_env("KAFKA_NODE_ID", "1")
        .with_env("KAFKA_PROCESS_ROLES", "broker,controller")
        .with_env("KAFKA_LISTENERS", f"PLAINTEXT://:{port},CONTROLLER://:{port + 1}")
        .with_env("KAFKA_ADVERTISED_LISTENERS", f"PLAINTEXT://127.0.0.1:{port}")
        .with_env("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER")
        .with_env("KAFKA_CONTROLLER_QUORUM_VOTERS", f"1@localhost:{port + 1}")
        .with_env("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT")
        .with_env("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1")
        .with_env("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1")
        .with_env("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1")
        .with_env("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0")
        .with_env("KAFKA_MESSAGE_MAX_BYTES", "4194304")
        .waiting_for(LogMessageWaitStrategy("Kafka Server started"))
    )
    with PostgresContainer(_POSTGRES_IMAGE, driver=None) as postgres, kafka:
        yield Servers(database=postgres.get_connection_url(), kafka=f"127.0.0.1:{port}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
