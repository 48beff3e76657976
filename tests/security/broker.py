"""A broker that lets nobody do anything that was not granted: SASL_SSL with SCRAM, and Kafka's StandardAuthorizer."""

import subprocess
from pathlib import Path

import jgo

from services.embedded.jars import VERSION, fetch, one_at_a_time
from services.embedded.java import java
from services.embedded.kafka import Kafka
from services.kafka.cluster import Cluster
from services.kafka.security import KafkaSecurity

from .certificates import Authority

PRINCIPALS = ("resolution-owner", "resolution", "resolution-http", "sender", "analyst", "auditor")
_ADMIN = "admin"
_ACLS = Path("deploy/kafka/apply-acls.sh")
_PROPERTIES = """
listeners=SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_SSL://127.0.0.1:{port}
listener.security.protocol.map=CONTROLLER:SSL,SASL_SSL:SASL_SSL
inter.broker.listener.name=SASL_SSL
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule \
required username="admin" password="{password}";
listener.name.controller.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={identity}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:CN=broker
allow.everyone.if.no.acl.found=false
"""
_QUICKLY = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:+IgnoreUnrecognizedVMOptions")
_ADMIN_CLIENT = """\
security.protocol=SASL_SSL
sasl.mechanism=SCRAM-SHA-512
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="admin" \
password="{password}";
ssl.truststore.type=PEM
ssl.truststore.location={authority}
"""


class GuardedKafka(Kafka):
    """The embedded broker with TLS, credentials and an authorizer. Each principal's password is made of its name."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, lambda text: None)
        self.authority = Authority(folder)
        self._identity = self.authority.issue("broker")
        self.stranger = Authority(folder, "stranger")

    def properties(self, port: int, controller: int, data: Path) -> str:
        ours = _PROPERTIES.format(
            port=port,
            controller=controller,
            password=password_of(_ADMIN),
            identity=self._identity.both,
            authority=self.authority.file,
        )
        given = super().properties(port, controller, data).splitlines()
        replaced = {line.partition("=")[0] for line in ours.splitlines()}
        return "\n".join(line for line in given if line.partition("=")[0] not in replaced) + ours

    def format_arguments(self) -> tuple[str, ...]:
        users = (f"SCRAM-SHA-512=[name={name},password={password_of(name)}]" for name in (_ADMIN, *PRINCIPALS))
        return tuple(argument for user in users for argument in ("--add-scram", user))

    def cluster(self, servers: str, principal: str) -> Cluster:
        """How a principal reaches it."""
        return Cluster(servers, self.security(principal))

    def security(self, principal: str) -> KafkaSecurity:
        return KafkaSecurity(
            "SASL_SSL", username=principal, password=password_of(principal), ca_file=self.authority.file
        )

    def set_up(self) -> str:
        """Starts it and grants rights as an operator does, with the project's own table and Kafka's own tool.

        Returns the bootstrap servers.
        """
        servers = self.start()
        config = self.folder / "admin.properties"
        config.write_text(_ADMIN_CLIENT.format(password=password_of(_ADMIN), authority=self.authority.file))
        tool = self.folder / "kafka-acls.sh"
        shared = f"-XX:+AutoCreateSharedArchive -XX:SharedArchiveFile={self.folder}/classes.jsa"
        tool.write_text(f'#!/bin/sh\nexec {" ".join(_kafka_acls(shared))} "$@"\n')
        tool.chmod(0o755)
        done = subprocess.run(
            [_ACLS, "--bootstrap-server", servers, "--command-config", config],
            env={"KAFKA_ACLS": str(tool), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return servers


def password_of(principal: str) -> str:
    return f"the-secret-of-{principal}"


def _kafka_acls(*options: str) -> list[str]:
    """What kafka-acls.sh of a distribution runs. The tools are in a jar of their own, which no broker needs."""
    with one_at_a_time():
        tools = Path(jgo.resolve(f"org.apache.kafka:kafka-tools:{VERSION}")[0].resolve())
    jars = ":".join(str(jar) for jar in (tools, *fetch(lambda text: None)))
    return [java(), *_QUICKLY, *options, "-cp", jars, "org.apache.kafka.tools.AclCommand"]
