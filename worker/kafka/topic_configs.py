"""What the brokers say of their topics' settings and their own, looked at once at the start.

To read them takes rights of their own. A worker that lacks one starts all the same, and says what it could not check.
"""

from collections.abc import Collection, Mapping
from typing import Any

import structlog
from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType

from worker.errors import TopicUnsuitable
from worker.kafka.connection import how_to_grant, setting_of
from worker.kafka.topics import CLUSTER
from worker.settings import KafkaSettings

_log = structlog.get_logger(__name__)

_LIMIT, _CLEANUP, _KEPT = "max.message.bytes", "cleanup.policy", "retention.ms"
_OFFSETS_KEPT = "offsets.retention.minutes"

Configs = Mapping[str, Mapping[str, str]]
"""Topic or broker -> name -> value. Of one whose settings may not be read there is no value."""


def check_settings(admin: Any, topics: Collection[str], settings: KafkaSettings) -> Configs:
    """Check the settings of topics and brokers as far as they may be read; returns those of the topics.

    Raises:
        TopicUnsuitable: a topic would refuse answers by its settings.
    """
    configs = topic_configs(admin, topics)
    brokers = _broker_configs(admin) if configs else {}
    _warn_of_missing_rights(configs, brokers, settings)
    _require_suitable_topics(configs, settings)
    _warn_of_short_memory(configs, brokers, settings)
    return configs


def topic_configs(admin: Any, topics: Collection[str]) -> Configs:
    """The settings of topics that matter here; of no topic at all if the broker gives no answer."""
    names = dict.fromkeys((_LIMIT, _CLEANUP, _KEPT))
    wanted = [ConfigResource(ConfigResourceType.TOPIC, topic, names) for topic in topics]
    try:
        return _described(admin, wanted)
    except errors.KafkaError as error:  # a broker that does not know the request, for instance
        _log.warning("the settings of topics cannot be read, and are not checked", why=str(error))
        return {}


def topic_limit(configs: Configs, topics: Collection[str], settings: KafkaSettings) -> int:
    """Smallest ``max.message.bytes`` of topics; ``kafka.max_message_bytes`` if one of them is unknown."""
    limits = [int(configs[topic][_LIMIT]) for topic in topics if _LIMIT in configs.get(topic, {})]
    return min(limits) if len(limits) == len(topics) else settings.max_message_bytes


def _require_suitable_topics(configs: Configs, settings: KafkaSettings) -> None:
    """Check that no topic would refuse answers by its settings.

    Raises:
        TopicUnsuitable: names the topic, its setting and what to do.
    """
    retry, images = settings.retry_topic, settings.images_topic
    for topic in (retry, settings.dead_topic, settings.verdicts_topic):
        if "compact" in (policy := configs.get(topic, {}).get(_CLEANUP, "")):
            raise TopicUnsuitable(
                f"{setting_of(topic, settings)}: its {_CLEANUP} is {policy}: the broker would refuse records without a "
                "key, and remove all but the last of one; set it to delete"
            )
    limits = [configs.get(topic, {}).get(_LIMIT) for topic in (images, retry)]
    comes, fits = (None if limit is None else int(limit) for limit in limits)
    if comes is not None and fits is not None and comes > fits:
        raise TopicUnsuitable(
            f"{setting_of(retry, settings)}: its {_LIMIT} is {fits}, that of {setting_of(images, settings)} {comes}: "
            "an event that has to be deferred may not fit; raise it (genprint topics create --update)"
        )


def _warn_of_short_memory(configs: Configs, brokers: Configs, settings: KafkaSettings) -> None:
    """Warn if the brokers forget the offsets of a group that stands still before the records of its topics are gone.

    After such a pause all records that are still there would be answered again.
    """
    for broker in brokers.values():
        if _OFFSETS_KEPT not in broker:
            continue
        offsets_kept_s = 60 * int(broker[_OFFSETS_KEPT])
        for topic in (settings.images_topic, settings.retry_topic):
            records_kept_ms = int(configs.get(topic, {}).get(_KEPT, 0))
            if records_kept_ms < 0 or records_kept_ms > 1000 * offsets_kept_s:
                _log.warning(
                    "the broker forgets offsets before records: after a pause as long as that, all are answered again",
                    topic=topic,
                    records_kept_s=records_kept_ms // 1000 if records_kept_ms >= 0 else "for ever",
                    offsets_kept_s=offsets_kept_s,
                    remedy=f"raise the broker's {_OFFSETS_KEPT}, or lower the topic's {_KEPT}",
                )


def _warn_of_missing_rights(configs: Configs, brokers: Configs, settings: KafkaSettings) -> None:
    """Warn, in one line, of the settings that this worker may not read, and name the rights."""
    unread = {setting_of(topic, settings): f"topic {topic}" for topic, found in configs.items() if not found}
    names = f"{_LIMIT}, {_CLEANUP}, {_KEPT}"
    unchecked = [f"{names} of {setting}" for setting in unread]
    resources = list(unread.values())
    if any(not found for found in brokers.values()):
        unchecked.append(f"{_OFFSETS_KEPT} of the brokers")
        resources.append(f"cluster {CLUSTER}")
    if resources:
        _log.warning(
            "settings are not checked: the rights to read them are missing",
            unchecked=unchecked,
            missing=[f"DESCRIBE_CONFIGS on {resource}" for resource in resources],
            remedy=how_to_grant(settings),
        )


def _broker_configs(admin: Any) -> Configs:
    """The settings of one broker that runs; of none if it gives no answer."""
    try:
        brokers = admin.describe_cluster()["brokers"]
        running = [broker["broker_id"] for broker in brokers if not broker.get("is_fenced")]
        return _described(admin, [ConfigResource(ConfigResourceType.BROKER, str(running[0]))]) if running else {}
    except errors.KafkaError as error:
        _log.warning("the brokers' settings cannot be read, and are not checked", why=str(error))
        return {}


def _described(admin: Any, wanted: Collection[ConfigResource]) -> Configs:
    """What the broker tells of these; kafka-python (3.0.12) gives one that it denied without any value.

    Raises:
        KafkaError: there is no answer.
    """
    found = admin.describe_configs(wanted, config_filter="all")
    return {
        resource: {name: entry["value"] for name, entry in entries.items() if entry["value"] is not None}
        for resources in found.values()
        for resource, entries in resources.items()
    }
