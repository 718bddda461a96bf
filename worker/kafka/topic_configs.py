"""What the broker says of its topics' settings, looked at once at the start, as far as the worker's rights go."""

from collections.abc import Collection, Mapping
from typing import Any

import structlog
from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType

from worker.errors import TopicUnsuitable
from worker.kafka.connection import setting_of
from worker.settings import KafkaSettings

_log = structlog.get_logger(__name__)

_LIMIT, _CLEANUP, _KEPT = "max.message.bytes", "cleanup.policy", "retention.ms"
_OFFSETS_KEPT = "offsets.retention.minutes"

Configs = Mapping[str, Mapping[str, str]]
"""Topic -> name -> value. What the worker may not read, or the broker does not tell, is not there."""


def topic_configs(admin: Any, topics: Collection[str]) -> Configs:
    """The settings of topics that matter here."""
    names = dict.fromkeys((_LIMIT, _CLEANUP, _KEPT))
    wanted = [ConfigResource(ConfigResourceType.TOPIC, topic, names) for topic in topics]
    try:
        found = admin.describe_configs(wanted, config_filter="all")["topic"]
    except (errors.KafkaError, KeyError) as error:  # a broker that does not know the request, for instance
        _log.debug("settings of topics unknown", why=str(error))
        return {}
    return {topic: {name: entry["value"] for name, entry in configs.items()} for topic, configs in found.items()}


def topic_limit(configs: Configs, topics: Collection[str], settings: KafkaSettings) -> int:
    """Smallest ``max.message.bytes`` of topics; ``kafka.max_message_bytes`` if one of them is unknown."""
    limits = [int(configs[topic][_LIMIT]) for topic in topics if _LIMIT in configs.get(topic, {})]
    if len(limits) < len(topics):
        _log.warning("topic limits unknown", assumed=settings.max_message_bytes)
        return settings.max_message_bytes
    return min(limits)


def require_suitable_topics(configs: Configs, settings: KafkaSettings) -> None:
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


def warn_of_short_memory(admin: Any, configs: Configs, settings: KafkaSettings) -> None:
    """Warn if the broker forgets the offsets of a group that stands still before the records of its topics are gone.

    After such a pause all records that are still there would be answered again. To read the broker's settings needs a
    right on the cluster; without it there is no warning.
    """
    try:
        broker = str(admin.describe_cluster()["brokers"][0]["broker_id"])
        wanted = [ConfigResource(ConfigResourceType.BROKER, broker, {_OFFSETS_KEPT: None})]
        found = admin.describe_configs(wanted, config_filter="all")
        offsets_kept_s = 60 * int(found["broker"][broker][_OFFSETS_KEPT]["value"])
    except (errors.KafkaError, KeyError, IndexError) as error:
        _log.debug("retention of offsets unknown", why=str(error))
        return
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
