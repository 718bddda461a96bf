"""TLS as a client: the files that settings name, and what a failed handshake means.

The connections to Kafka and to Redis have the settings ``ssl_cafile``, ``ssl_certfile`` and ``ssl_keyfile`` each, in
their own section.
"""

import socket
import ssl
from collections.abc import Iterator

from worker.errors import StartupError
from worker.settings import KafkaSettings, RedisSettings

TlsSettings = KafkaSettings | RedisSettings

_EXPIRED, _NOT_YET_VALID, _HOSTNAME, _ADDRESS = 10, 9, 62, 64  # X509_V_ERR_*
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")


def client_context(section: str, settings: TlsSettings) -> ssl.SSLContext:
    """A context that always checks certificate and host name; without a CA file, by the system's authorities.

    Args:
        section: ``kafka`` or ``redis``, for the messages.
        settings: names the files.

    Raises:
        StartupError: names the setting whose file is missing or has other contents than expected.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    ca, certificate, key = settings.ssl_cafile, settings.ssl_certfile, settings.ssl_keyfile
    if ca is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(ca)
        except OSError as error:  # ssl.SSLError is one
            raise StartupError(_unusable(f"{section}.ssl_cafile={ca}", error, "certificates in PEM form")) from error
    if key is not None and certificate is None:
        raise StartupError(f"{section}.ssl_keyfile={key}: a key needs its certificate; set {section}.ssl_certfile too")
    if certificate is not None:
        named = f"{section}.ssl_certfile={certificate}" + (f", {section}.ssl_keyfile={key}" if key else "")
        try:
            # An empty password, or OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            expected = "a certificate and its unencrypted key in PEM form"
            raise StartupError(_unusable(named, error, expected)) from error
    return context


def tls_trouble(error: BaseException, section: str, settings: TlsSettings) -> str | None:
    """Why TLS failed and what to do, where a retry would not help; None if the cause is not TLS."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _mistrust(cause, section, settings)
        if isinstance(cause, ssl.SSLError) and cause.reason:
            if cause.reason in _NO_TLS:
                return f"the server does not speak TLS ({cause.reason})"
            if "ALERT" in cause.reason:
                certificate = f"{section}.ssl_certfile={settings.ssl_certfile or '(not set)'}"
                return f"the server refuses the worker's side of TLS ({cause.reason}); see {certificate}"
    return None


def alert(host: str, port: int, context: ssl.SSLContext, timeout_s: float) -> ssl.SSLError | None:
    """The alert by which a server refuses the worker's certificate; None if it sends none.

    It comes after the handshake, and a client that writes first may miss it.
    """
    try:
        with (
            socket.create_connection((host, port), timeout_s) as sock,
            context.wrap_socket(sock, server_hostname=host) as tls,
        ):
            tls.recv(1)
    except ssl.SSLError as error:
        return error
    except OSError:
        pass
    return None


def _mistrust(error: ssl.SSLCertVerificationError, section: str, settings: TlsSettings) -> str:
    match error.verify_code:
        case code if code == _EXPIRED:
            return "the server's certificate has expired; renew it there"
        case code if code == _NOT_YET_VALID:
            return "the server's certificate is not valid yet; compare the clocks of both machines"
        case code if code in (_HOSTNAME, _ADDRESS):
            return f"the server's certificate is for another name ({error.verify_message}); use one that is in it"
        case _:
            authority = settings.ssl_cafile or "(not set: the system's authorities)"
            return (
                f"{section}.ssl_cafile={authority} does not vouch for the server's certificate "
                f"({error.verify_message}); name the authority that signed it"
            )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        yield from (arg for arg in error.args if isinstance(arg, BaseException))
        error = error.__cause__ or error.__context__


def _unusable(named: str, error: Exception, expected: str) -> str:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return f"{named}: {error.strerror or error}"
    reason = getattr(error, "reason", None) or type(error).__name__
    return f"{named}: expected {expected} ({reason})"
