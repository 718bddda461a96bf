"""Image events from a folder of files, as an uploader would send them."""

import json
import mimetypes
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from bundle.store import sha256
from bundle.text import printable
from worker.errors import EventTooLarge, SourceTooLarge
from worker.images.files import read_any_file
from worker.messages.events import EVENT_TYPE
from worker.messages.records import Message
from worker.messages.verdict import timestamp
from worker.settings import Settings
from worker.tools.image_files import find_images

ContentKind = Literal["inline", "claim-check", "both"]


def image_events(
    folder: Path, settings: Settings, *, kind: ContentKind, uri_prefix: str | None = None
) -> Iterator[Message]:
    """One event for each image, in sorted order; ``both`` alternates.

    Args:
        folder: searched recursively; the path below it becomes ``ce_subject``.
        settings: name the topic, and say how large images may be.
        kind: whether events carry the image itself or a claim check.
        uri_prefix: beginning of the addresses in claim checks, before the percent-encoded path below ``folder``; by
            default the folder's ``file://`` address.

    Raises:
        EventTooLarge: names an image that the worker would not take.
        OSError: a file cannot be read.
    """
    prefix = uri_prefix or folder.resolve().as_uri() + "/"
    for number, path in enumerate(find_images([folder], only_taken=True).paths):
        below = os.fsencode(path.relative_to(folder).as_posix())
        subject = below.decode(errors="replace")
        is_inline = kind == "inline" or (kind == "both" and number % 2 == 0)
        max_bytes = settings.events.inline_max_bytes if is_inline else settings.fetch.max_bytes
        try:
            data = read_any_file(path, max_bytes)
        except SourceTooLarge as error:
            instead = "; send a claim check instead" if is_inline else ""
            raise EventTooLarge(f"{printable(path)}: {error}, and the worker takes no more{instead}") from error
        if is_inline:
            content_type, value = mimetypes.guess_type(path.name)[0] or "application/octet-stream", data
        else:
            content_type = "application/json"
            value = json.dumps({"uri": prefix + quote(below), "sha256": sha256(data)}).encode()
        headers = {
            "content-type": content_type,
            "ce_specversion": "1.0",
            "ce_type": EVENT_TYPE,
            "ce_source": "urn:genprint:produce",
            "ce_id": str(uuid.uuid4()),
            "ce_subject": subject,
            "ce_time": timestamp(),
        }
        topic = settings.kafka.images_topic
        yield Message(topic, subject.encode(), value, tuple((name, text.encode()) for name, text in headers.items()))
