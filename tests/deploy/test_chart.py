"""The Helm chart: linted, rendered, held against Kubernetes' own schemas and those of KEDA and Prometheus."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft7Validator

from services.runtime.roles import ROLES
from tests.deploy.helm import CHART, Helm, find_helm

Json = dict[str, Any]
VERSIONS = ("1.30", "1.37")
"""The oldest Kubernetes that Chart.yaml allows, and the newest that there are schemas of."""
SCHEMAS = Path(__file__).with_name("schemas")
"""Strict JSON Schemas of custom resources, made from the definitions that KEDA 2.21 and prometheus-operator 0.85 ship."""
ALERTS = CHART.parents[1] / "prometheus/alerts.yml"


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    folder = tmp_path_factory.mktemp("helm")
    return Helm(find_helm(folder), folder)


@pytest.fixture(scope="module")
def full(helm: Helm) -> list[Json]:
    return helm.render("full-values.yaml")


@pytest.fixture(scope="module")
def least(helm: Helm) -> list[Json]:
    return helm.render("least-values.yaml")


def of_kind(documents: list[Json], kind: str) -> dict[str, Json]:
    return {d["metadata"]["name"].removeprefix("rc-resolution-center-"): d for d in documents if d["kind"] == kind}


def pods(documents: list[Json]) -> dict[str, Json]:
    workloads = of_kind(documents, "Deployment") | of_kind(documents, "Job")
    jobs = {name: job["spec"]["jobTemplate"] for name, job in of_kind(documents, "CronJob").items()}
    return {name: workload["spec"]["template"]["spec"] for name, workload in (workloads | jobs).items()}


def environment(pod: Json) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}


def validate(document: Json) -> None:
    own = SCHEMAS / f"{document['kind'].lower()}.json"
    if own.exists():
        Draft7Validator(json.loads(own.read_text())).validate(document)
    else:
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("values", ["full-values.yaml", "least-values.yaml"])
def test_lint_finds_nothing(helm: Helm, values: str):
    assert "0 chart(s) failed" in helm.lint(values)


@pytest.mark.parametrize("values", ["full", "least"])
def test_everything_rendered_is_what_kubernetes_takes(request: pytest.FixtureRequest, values: str):
    documents = request.getfixturevalue(values)
    assert len(documents) > 12
    for document in documents:
        validate(document)
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0, "readynessProbe")),
        ("NetworkPolicy", ("spec", "ingres")),
        ("ScaledObject", ("spec", "maxReplicas")),
        ("ServiceMonitor", ("spec", "endpoints", 0, "intervall")),
    ],
)
def test_a_misspelt_field_would_be_found(full: list[Json], kind: str, path: tuple[str | int, ...]):
    wrong: Any = json.loads(json.dumps(next(iter(of_kind(full, kind).values()))))
    inner = wrong
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = {}
    with pytest.raises(Exception, match=str(path[-1])):
        validate(wrong)


def test_each_role_of_the_service_is_a_deployment_of_its_own(least: list[Json]):
    deployments = of_kind(least, "Deployment")
    assert set(deployments) == set(ROLES)
    for role, deployment in deployments.items():
        assert deployment["spec"]["template"]["spec"]["containers"][0]["args"] == ["serve", role]
    assert set(of_kind(least, "PodDisruptionBudget")) == set(ROLES)
    budgets = of_kind(least, "PodDisruptionBudget").items()
    for role, budget in budgets:
        labels = deployments[role]["spec"]["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert budget["spec"]["maxUnavailable"] == 1


def test_a_role_that_the_service_gains_is_a_key_in_the_values(helm: Helm):
    more = helm.render("least-values.yaml", "roles.dishes.resources.limits.memory=64Mi", "roles.http=null")
    for document in more:
        validate(document)
    assert set(of_kind(more, "Deployment")) == {"dishes", *ROLES} - {"http"}
    assert "http" not in of_kind(more, "Service")


def test_every_pod_keeps_the_restricted_standard_and_has_no_token(full: list[Json]):
    assert set(pods(full)) == {*ROLES, "migrate", "retire-outcomes"}
    for pod in pods(full).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any("hostPath" in volume for volume in pod["volumes"])
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
    [account] = of_kind(full, "ServiceAccount").values()
    assert account["automountServiceAccountToken"] is False


def test_roles_are_probed_where_they_serve_metrics(least: list[Json]):
    for role in ROLES:
        [container] = pods(least)[role]["containers"]
        assert environment(pods(least)[role])["RESOLUTION_METRICS_PORT"] == "9464"
        assert {"name": "metrics", "containerPort": 9464} in container["ports"]
        paths = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
        assert [path["path"] for path in paths] == ["/health/live", "/health/live", "/health/ready"]
        assert {path["port"] for path in paths} == {"metrics"}


def secrets(pod: Json) -> dict[str, tuple[str, str]]:
    """By variable, the name and the key of the Secret that it comes from."""
    references = {v["name"]: v["valueFrom"]["secretKeyRef"] for v in pod["containers"][0]["env"] if "valueFrom" in v}
    return {name: (reference["name"], reference["key"]) for name, reference in references.items()}


def test_secrets_are_named_and_never_rendered(full: list[Json], least: list[Json]):
    assert not of_kind(full, "Secret")
    for pod in pods(least).values():
        assert secrets(pod)["PGPASSWORD"] == ("resolution-database", "password")
        assert "RESOLUTION_KAFKA_SECURITY_PROTOCOL" not in environment(pod)


def test_each_role_logs_in_as_the_user_that_is_its_own(full: list[Json]):
    found = {
        role: (
            environment(pod)["RESOLUTION_KAFKA_SASL_USERNAME"],
            secrets(pod)["RESOLUTION_KAFKA_SASL_PASSWORD"],
            environment(pod)["RESOLUTION_DATABASE_URL"].partition("@")[0].removeprefix("postgresql://"),
            secrets(pod)["PGPASSWORD"],
        )
        for role, pod in pods(full).items()
    }
    owner = ("resolution-owner", ("kafka-owner", "password"), "resolution_owner", ("database-owner", "owner"))
    service = ("resolution", ("kafka-service", "password"), "resolution_service", ("database-service", "password"))
    assert found == dict.fromkeys(ROLES, service) | {
        "projections": (*service[:2], "resolution_projections", ("database-projections", "password")),
        "http": ("resolution-http", ("kafka-http", "password"), "resolution_http", ("database-http", "password")),
        "migrate": owner,
        "retire-outcomes": owner,
    }
    for pod in pods(full).values():
        assert environment(pod)["RESOLUTION_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
        assert environment(pod)["RESOLUTION_KAFKA_TLS_CA_FILE"] == "/etc/resolution/tls/kafka.crt"
        assert secrets(pod)["RESOLUTION_MASTER_KEY"] == ("resolution-master-key", "master-key")


def test_files_for_all_pods_and_for_one_role_are_mounted(full: list[Json]):
    for name, pod in pods(full).items():
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert mounted == {"tmp", "tls"} | ({"own"} if name == "timer" else set())


def test_migrations_run_before_the_roles(least: list[Json]):
    job = of_kind(least, "Job")["migrate"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["migrate"]
    # It runs before the release's ServiceAccount exists.
    assert "serviceAccountName" not in job["spec"]["template"]["spec"]


def test_outcomes_are_retired_where_their_age_is_given(full: list[Json], least: list[Json]):
    assert of_kind(least, "CronJob") == {}
    [container] = pods(full)["retire-outcomes"]["containers"]
    assert container["args"] == ["retire-outcomes", "--older-than", "13"]
    assert environment(pods(full)["retire-outcomes"]) == environment(pods(full)["migrate"])


def test_commands_alone_is_scaled_up_to_one_pod_for_each_partition(full: list[Json]):
    [scaled] = of_kind(full, "ScaledObject").values()
    deployments = of_kind(full, "Deployment")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployments["commands"]["metadata"]["name"]
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (1, 8)
    metadata = scaled["spec"]["triggers"][0]["metadata"]
    assert (metadata["topic"], metadata["consumerGroup"]) == ("resolution.commands", "resolution.commands")
    # Two masters would set the number in turns.
    assert "replicas" not in deployments["commands"]["spec"]
    assert {role: deployments[role]["spec"]["replicas"] for role in ("relay", "timer", "projections", "checkpoints")} == {
        "relay": 1, "timer": 1, "projections": 1, "checkpoints": 1,
    }  # fmt: skip


def test_commands_of_several_databases_are_scaled_by_the_lag_of_each(helm: Helm):
    shards = helm.render("full-values.yaml", "database.url=postgresql://u@one/r postgresql://u@two/r")
    [scaled] = of_kind(shards, "ScaledObject").values()
    groups = [trigger["metadata"]["consumerGroup"] for trigger in scaled["spec"]["triggers"]]
    assert groups == ["resolution.commands.0-of-2", "resolution.commands.1-of-2"]
    validate(scaled)


def test_pods_reach_dns_kafka_postgresql_and_nothing_else(full: list[Json]):
    policies = {name.removeprefix("rc-"): policy["spec"] for name, policy in of_kind(full, "NetworkPolicy").items()}
    everybody, http = policies["resolution-center"], policies["http"]
    assert everybody["policyTypes"] == ["Ingress", "Egress"]
    assert [sorted({p["port"] for p in rule["ports"]}) for rule in everybody["egress"]] == [[53], [9093], [5432]]
    assert [[p["port"] for p in rule["ports"]] for rule in everybody["ingress"]] == [[9464]]
    assert [[p["port"] for p in rule["ports"]] for rule in http["ingress"]] == [[8080]]
    assert [[p["port"] for p in rule["ports"]] for rule in http["egress"]] == [[443]]
    for pod in of_kind(full, "Deployment").values():
        labels = pod["spec"]["template"]["metadata"]["labels"]
        assert everybody["podSelector"]["matchLabels"].items() <= labels.items()


def test_prometheus_finds_every_role(full: list[Json]):
    [monitor] = of_kind(full, "ServiceMonitor").values()
    service = of_kind(full, "Service")["metrics"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    for deployment in of_kind(full, "Deployment").values():
        assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.skipif(not ALERTS.exists(), reason="there are no alerts to put into the chart")
def test_the_chart_has_the_alerts_and_dashboards_of_the_compose_file(full: list[Json]):
    [rule] = of_kind(full, "PrometheusRule").values()
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())
    [dashboards] = of_kind(full, "ConfigMap").values()
    assert dashboards["data"]
    assert all(json.loads(text) for text in dashboards["data"].values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("kafka.servers=",), "kafka.servers has to be given"),
        (("database.url=",), "database.url has to be given"),
        (("database.existingSecret=",), "database.existingSecret has to be given"),
        (("http.jwt.key.configMap=",), "anybody could log in as anybody"),
        (("database.url=postgresql://resolution:secret@postgres/resolution",), "database/url"),
        (("kafka.security.protocol=SASL_SSL",), "kafka.security.username has to be given"),
        (("kafka.security.protocol=TLS",), "kafka/security/protocol"),
        (("database.users.http.url=postgresql://resolution:secret@postgres/resolution",), "database/users/http/url"),
        (("roles.relay.replicas=2",), "roles/relay/replicas"),
        (("roles.commands.replica=2",), "replica"),
        (("metrics.port=0",), "metrics/port"),
        (("image.digest=sha256:1",), "image/digest"),
    ],
)
def test_values_that_cannot_work_are_refused_with_a_reason(helm: Helm, settings: tuple[str, ...], said: str):
    assert said in helm.refuses("least-values.yaml", *settings)


def _keys(values: Json, schema: Json, path: str = "") -> Iterator[str]:
    for key in values:
        if key not in schema.get("properties", {}):
            yield f"{path}/{key}"
        elif isinstance(values[key], dict) and schema["properties"][key].get("additionalProperties") is False:
            yield from _keys(values[key], schema["properties"][key], f"{path}/{key}")


def test_the_schema_of_the_values_knows_all_of_them_and_the_readme_too():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    Draft7Validator.check_schema(schema)
    assert not list(_keys(values, schema))
    readme = (CHART / "README.md").read_text()
    assert [key for key in values if not re.search(rf"`{key}\b", readme)] == []
