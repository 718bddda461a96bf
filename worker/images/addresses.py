"""The fence: which addresses may be fetched. They come from untrusted events, and from untrusted redirects.

Addresses are compared in their normal form (RFC 3986, section 6.2.2), and asked for as they came: a signature may cover
each byte of path and query.
"""

import errno
import ipaddress
import os
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

from yarl import URL

from worker.errors import SourceForbidden

_OBJECT_STORES: Final = frozenset({"s3", "gs", "az"})
_NO_SEGMENT: Final = frozenset({"", ".", ".."})


class ForbiddenAddressError(OSError):
    """Raised instead of a socket, so that no packet is sent."""

    def __init__(self) -> None:
        # One errno and one text: the connector joins the errors of several addresses only if these differ.
        super().__init__(errno.EPERM, "not a public address")


@dataclass(frozen=True, slots=True)
class Address:
    """An address that may be fetched."""

    url: URL
    """What to ask for: path and query as they came, but for what no request can carry (spaces, letters beyond ASCII)
    and dot segments, which browsers resolve, too."""
    source: str
    """The prefix that permits it, as ``fetch.sources`` has it."""

    @property
    def scheme(self) -> str:
        """In lower case."""
        return self.url.scheme

    @property
    def host(self) -> str:
        """Host or bucket; empty for files."""
        return self.url.raw_host or ""

    @property
    def store(self) -> str:
        """The address of an object's store."""
        return f"{self.scheme}://{self.host}"

    @property
    def key(self) -> str:
        """The key of an object."""
        return _key(self.url)

    @property
    def path(self) -> str:
        """The path of a file, whose name need not be text."""
        return os.fsdecode(unquote_to_bytes(self.url.raw_path))


class Fence:
    """The prefixes of ``fetch.sources``."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._allowed = {prefix: URL(prefix) for prefix in sources}

    @property
    def folders(self) -> list[str]:
        """Paths of the folders that files may be in."""
        return [Address(allowed, name).path for name, allowed in self._allowed.items() if allowed.scheme == "file"]

    def permitted(self, text: str) -> Address:
        """The address, if it may be fetched.

        Raises:
            SourceForbidden: it may not.
            ValueError: it is none.
        """
        # Parsed as aiohttp parses it: a check by another parser could be got round.
        url = URL(text)
        if ".." in re.split(r"[/\\]", url.path):
            raise SourceForbidden("the address has '..' in its path")
        source = next((name for name, allowed in self._allowed.items() if _covers(allowed, url)), None)
        if source is None:
            known = url.scheme if url.scheme in {allowed.scheme for allowed in self._allowed.values()} else "kind of"
            raise SourceForbidden(f"this {known} address is not under any of fetch.sources")
        if url.scheme not in ("http", "https") and ("?" in text or "#" in text):
            raise SourceForbidden("objects and files have no query: write ? as %3F and # as %23")
        return Address(_to_ask_for(text, url), source)


def _to_ask_for(text: str, url: URL) -> URL:
    """The address as it came, as far as that can be asked for; see ``Address.url``."""
    if url.scheme == "file":
        return url
    came = URL(quote(text, safe=string.punctuation), encoded=True)
    if url.scheme in _OBJECT_STORES:
        if not _NO_SEGMENT.isdisjoint(_key(came).split("/")):
            raise SourceForbidden(
                "this key cannot be asked for: it is empty, begins or ends with /, or has //, . or .."
            )
        return came
    if any(unquote(segment) in (".", "..") for segment in came.raw_path.split("/")):
        return url
    sent = URL.build(
        scheme=url.scheme,
        authority=url.raw_authority,
        path=came.raw_path,
        query_string=came.raw_query_string,
        encoded=True,
    )
    if _normal(URL(str(sent))) != _normal(url):
        raise SourceForbidden("not a valid address")
    return sent


def _normal(url: URL) -> tuple[str, str, str, str]:
    return url.scheme, url.raw_authority, url.raw_path, url.raw_query_string


def _key(url: URL) -> str:
    return unquote_to_bytes(url.raw_path.removeprefix("/")).decode()  # what is not UTF-8 is no key


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public Internet; IPv4 inside IPv6 (mapped, 6to4, NAT64) counts as IPv4."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or _nat64(ip) or ip
    # `is_global` alone lets multicast, IPv4-compatible (::127.0.0.1) and site-local (fec0::/10) addresses through.
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or (ip.version == 6 and ip.is_site_local))


def _nat64(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    well_known = ipaddress.IPv6Network("64:ff9b::/96")
    return ipaddress.IPv4Address(ip.packed[-4:]) if ip in well_known else None


def _covers(allowed: URL, url: URL) -> bool:
    """Whether ``url`` lies under a prefix of ``fetch.sources``; a host without a port means the scheme's own port."""
    if url.scheme != allowed.scheme:
        return False
    if url.scheme == "file":
        same_host = url.raw_host in (None, "localhost")
    elif not url.raw_host or (url.scheme in _OBJECT_STORES and (url.user or url.explicit_port)):
        same_host = False
    else:
        same_host = allowed.raw_host is None or (url.raw_host, url.port) == (allowed.raw_host, allowed.port)
    # By segments: /data/images-2 is not under /data/images.
    return same_host and f"{url.path}/".startswith(f"{allowed.path.rstrip('/')}/")
