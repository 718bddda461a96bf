"""Certificates for tests: an authority, what it signs, and what nobody should trust."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

from deploy.local.ports import LOOPBACK


@dataclass(frozen=True)
class Certificates:
    """Files in PEM form. A server's has its key (PKCS #8, as Kafka wants it) and its certificate in one."""

    authority: Path
    other_authority: Path
    """Has signed none of the servers."""
    server: Path
    expired: Path
    misnamed: Path
    client: Path
    client_key: Path
    locked_key: Path
    """The client's, encrypted."""
    foreign_client: Path
    """Key and certificate by the other authority."""


def make_certificates(directory: Path) -> Certificates:
    """All of them, with keys of their own."""
    ours, others = trustme.CA(), trustme.CA()
    now = datetime.now(UTC)
    ours.cert_pem.write_to_path(directory / "authority.pem")
    others.cert_pem.write_to_path(directory / "other-authority.pem")
    # Java takes no certificate whose list of names is empty.
    client = ours.issue_cert(
        "worker.example", common_name="worker", organization_name="tests", organization_unit_name="x"
    )
    client.private_key_pem.write_to_path(directory / "client.key")
    client.cert_chain_pems[0].write_to_path(directory / "client.pem")
    key = serialization.load_pem_private_key(client.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"4711")
    )
    (directory / "locked.key").write_bytes(locked)
    expired = ours.issue_cert(LOOPBACK, not_before=now - timedelta(days=9), not_after=now - timedelta(days=1))
    return Certificates(
        authority=directory / "authority.pem",
        other_authority=directory / "other-authority.pem",
        server=_key_and_certificate(ours.issue_cert(LOOPBACK), directory / "server.pem"),
        expired=_key_and_certificate(expired, directory / "expired.pem"),
        misnamed=_key_and_certificate(ours.issue_cert("kafka.example"), directory / "misnamed.pem"),
        client=directory / "client.pem",
        client_key=directory / "client.key",
        locked_key=directory / "locked.key",
        foreign_client=_key_and_certificate(others.issue_cert("worker.example"), directory / "foreign.pem"),
    )


def _key_and_certificate(leaf: trustme.LeafCert, path: Path) -> Path:
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    pkcs8 = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(pkcs8 + b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    return path
