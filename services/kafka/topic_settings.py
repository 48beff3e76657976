"""Judges the settings of topics. Pure: takes what the cluster says, and returns what is wrong with it.

At start the service refuses a topic that would reject its records or delete them. It only warns about a topic that
keeps records for a short time or on one broker, because that may be intended.
"""

from collections.abc import Iterator, Mapping

SMALLEST_LIMIT = 1024 * 1024
"""The smallest `max.message.bytes` that is accepted. Kafka's default is 12 bytes more; the relay's batches are half as
large."""

COPIES = 3
IN_SYNC = 2
_ENOUGH_BROKERS = 3
_DAY_MS = 24 * 60 * 60 * 1000
_SHORT_DAYS = 7
"""Records should be kept for at least this many days: a role that is down over a long weekend must not lose them."""

Settings = Mapping[str, str]


def copies_to_ask_for(brokers: int, defaults: Settings) -> tuple[int, dict[str, str]]:
    """Returns a new topic's replication factor (-1: the cluster's default) and the settings to add for it.

    `defaults` is the brokers' configuration, empty if this user may not see it. On a cluster of three or more brokers a
    topic gets three copies, two of them in sync. The cluster's defaults apply only if they are higher.
    """
    if brokers < _ENOUGH_BROKERS:
        return -1, {}
    higher = int(defaults.get("default.replication.factor", 1)) > COPIES
    more_in_sync = int(defaults.get("min.insync.replicas", 1)) > IN_SYNC
    return (-1 if higher else COPIES), ({} if more_in_sync else {"min.insync.replicas": str(IN_SYNC)})


def missing_copies(brokers: int, copies: Mapping[str, int], settings: Mapping[str, Settings]) -> Iterator[str]:
    """Warns of topics whose records can be lost with one broker.

    `copies` has for each topic the number of copies of its partition with the fewest.
    """
    if brokers < _ENOUGH_BROKERS:
        return
    if few := sorted(f"{topic} ({count})" for topic, count in copies.items() if count < COPIES):
        yield (
            f"The cluster has {brokers} brokers, but fewer than {COPIES} copies of {', '.join(few)}. Their records can "
            "be lost with a broker. Make more copies with kafka-reassign-partitions.sh (docs/deployment.md)."
        )
    in_sync = {topic: int(values.get("min.insync.replicas", IN_SYNC)) for topic, values in settings.items()}
    if alone := sorted(topic for topic, count in in_sync.items() if count < IN_SYNC):
        yield (
            f"Kafka acknowledges a record of {', '.join(alone)} when one broker has it, and can lose it with that "
            f"broker. Set two in sync on each ({_alter('TOPIC', f'min.insync.replicas={IN_SYNC}')})."
        )


def refusal(topic: str, settings: Settings, wanted: Settings) -> str:
    """Returns why the service cannot use the topic, or an empty text if it can.

    `wanted` has the settings with which the service creates this topic.
    """
    stamped, policy = settings.get("message.timestamp.type"), settings.get("cleanup.policy", "")
    limit = int(settings.get("max.message.bytes", SMALLEST_LIMIT))
    if wanted.get("message.timestamp.type") == "LogAppendTime" != stamped:
        return (
            f"Topic {topic} has message.timestamp.type={stamped}; deadlines are judged by the broker's clock. Set it "
            f"to LogAppendTime ({_alter(topic, 'message.timestamp.type=LogAppendTime')})."
        )
    if "compact" in policy and not _is_compacted(wanted):
        return (
            f"Topic {topic} has cleanup.policy={policy}, which keeps only the last record of each order. "
            f"Set it to delete ({_alter(topic, 'cleanup.policy=delete')})."
        )
    if limit < SMALLEST_LIMIT:
        return (
            f"Topic {topic} has max.message.bytes={limit}, and the service writes batches of up to {SMALLEST_LIMIT} "
            f"bytes. Raise it ({_alter(topic, f'max.message.bytes={SMALLEST_LIMIT}')})."
        )
    return ""


def doubts(topic: str, settings: Settings, wanted: Settings) -> Iterator[str]:
    """Warns of settings that may lose records. Each sentence has the command that corrects the setting."""
    if _is_compacted(wanted):
        if (policy := settings.get("cleanup.policy", "compact")) != "compact":
            yield (
                f"Topic {topic} has cleanup.policy={policy}: its last record can expire, and then the relay refuses to "
                f"go on. Set it to compact ({_alter(topic, 'cleanup.policy=compact')})."
            )
    else:
        yield from _expires_early(topic, settings)
    if settings.get("unclean.leader.election.enable") == "true":
        yield (
            f"Topic {topic} has unclean.leader.election.enable=true: Kafka may lose what it has acknowledged. Set it "
            f"to false ({_alter(topic, 'unclean.leader.election.enable=false')})."
        )


def _expires_early(topic: str, settings: Settings) -> Iterator[str]:
    kept, size = int(settings.get("retention.ms", -1)), int(settings.get("retention.bytes", -1))
    if 0 <= kept < _SHORT_DAYS * _DAY_MS:
        yield (
            f"Topic {topic} has retention.ms={kept}: what nobody has read after {kept / _DAY_MS:.2g} days is lost. "
            f"Keep it for {_SHORT_DAYS} days or longer ({_alter(topic, f'retention.ms={_SHORT_DAYS * _DAY_MS}')})."
        )
    if size >= 0:
        yield (
            f"Topic {topic} has retention.bytes={size}: when many records come, young ones are deleted, too. Limit "
            f"their age only ({_alter(topic, 'retention.bytes=-1')})."
        )


def _is_compacted(wanted: Settings) -> bool:
    return wanted.get("cleanup.policy") == "compact"


def _alter(topic: str, setting: str) -> str:
    return f"kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {setting}"
