"""The loop that a user would write first: poll one, decode, run, send, flush, commit; a process of its own.

``python -m tests.bench.naive BOOTSTRAP GROUP IMAGES VERDICTS BUNDLE DEVICE``, until it is stopped. Events, scores and
verdicts are the worker's own, so that the same is computed; clients have their defaults, which means at least once.
"""

import sys
from pathlib import Path

from kafka import KafkaConsumer, KafkaProducer

from bundle.preprocess import Limits
from bundle.store import load_bundle, sha256
from tests.worker.images.in_process import InProcess
from worker.decision.attribution import Attributor, ScoredImage
from worker.messages.events import InlineImage, read_delivery, read_event
from worker.messages.records import Partition, Record
from worker.messages.verdict import TimingPart, verdict_message
from worker.scoring.engine import Engine, ImageScores
from worker.settings import Settings


def main(bootstrap: str, group: str, images: str, verdicts: str, bundle_path: str, device: str) -> None:
    """Answer every event, at least once each."""
    settings = Settings.model_validate({"inference": {"device": device, "batch_size": 1}})
    bundle = load_bundle(Path(bundle_path))
    engine = Engine(bundle, settings.inference)
    engine.start()
    attributor = Attributor(bundle, settings.policy, "naive")
    decoders = InProcess(bundle.manifest.models, Limits(2**24, 2**26))
    timing = TimingPart(queue=0, fetch=0, decode=0, inference=0, total=0)
    consumer = KafkaConsumer(
        images, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
    )
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for m in consumer:
        record = Record(Partition(m.topic, m.partition), m.offset, 0, m.timestamp, m.key, m.value, tuple(m.headers))
        events = settings.events
        event = read_event(record, read_delivery(record, "none"), events.inline_max_bytes, events.attributes)
        assert isinstance(event.content, InlineImage)
        data = event.content.data
        image = decoders.prepare(data)
        [scores] = engine.score([image])
        assert isinstance(scores, ImageScores)
        scored = ScoredImage(sha256(data), image.facts, scores, cached=False, timing=timing)
        answer = verdict_message(attributor.verdict(event, scored), topic=verdicts, key=m.key, traceparent=None)
        producer.send(verdicts, value=answer.value, key=answer.key, headers=list(answer.headers))
        producer.flush()
        consumer.commit()


if __name__ == "__main__":
    main(*sys.argv[1:])
