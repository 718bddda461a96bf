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
from worker.messages.events import EVENT_TYPE
from worker.messages.records import Message
from worker.messages.verdict import timestamp
from worker.tools.image_files import find_images

ContentKind = Literal["inline", "claim-check", "both"]


def image_events(folder: Path, *, topic: str, kind: ContentKind, uri_prefix: str | None) -> Iterator[Message]:
    """One event for each image, in sorted order; ``both`` alternates.

    Args:
        folder: searched recursively; the path below it becomes ``ce_subject``.
        topic: the topic of the messages.
        kind: whether events carry the image itself or a claim check.
        uri_prefix: beginning of the addresses in claim checks, before the percent-encoded path below ``folder``; by
            default the folder's ``file://`` address.

    Raises:
        OSError: a file cannot be read.
    """
    prefix = uri_prefix or folder.resolve().as_uri() + "/"
    for number, path in enumerate(find_images([folder], only_taken=True).paths):
        below = os.fsencode(path.relative_to(folder).as_posix())
        subject = below.decode(errors="replace")
        data = path.read_bytes()
        if kind == "inline" or (kind == "both" and number % 2 == 0):
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
        yield Message(topic, subject.encode(), value, tuple((name, text.encode()) for name, text in headers.items()))
