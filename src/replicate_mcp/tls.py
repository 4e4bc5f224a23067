"""TLS contexts for all outgoing connections, with the choice of trusted certificates.

A file or folder that the environment names replaces the system's store, as it does for OpenSSL and
curl. The system's store on macOS and Windows is read through `truststore`.
"""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from replicate_mcp.platform.certificates import store_needs_system_calls
from replicate_mcp.text import one_line

CERTIFICATE_VARIABLES = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
"""Environment variables that name trusted certificates; the first one that is set is used."""

KEY_LOG_VARIABLE = "SSLKEYLOGFILE"

_CLOCK_CODES = (9, 10)
"""OpenSSL's verification codes for a certificate that is not yet valid, or has expired."""

_HOSTNAME_CODES = (62, 63, 64)
"""OpenSSL's verification codes for a certificate of another host, e-mail or IP address."""


class TlsSettingsError(Exception):
    """An environment variable prevents TLS; the message is a clause with its name and value."""


@dataclass(frozen=True, slots=True)
class TrustSource:
    """Source of the trusted certificates.

    Attributes:
        variable: the environment variable that names `path`; empty for the system's store.
        path: the file or folder of certificates; empty for the system's store.
    """

    variable: str = ""
    path: str = ""

    def __str__(self) -> str:
        """Return a short description for messages."""
        return f"{self.variable}={one_line(self.path)}" if self.variable else "the system's store"


def trust_source(environ: Mapping[str, str] | None = None) -> TrustSource:
    """Return the source of the trusted certificates, according to the environment."""
    environ = os.environ if environ is None else environ
    for variable in CERTIFICATE_VARIABLES:
        if path := environ.get(variable):
            return TrustSource(variable, path)
    return TrustSource()


def client_context() -> ssl.SSLContext:
    """Return the process's context for outgoing connections.

    Raises:
        TlsSettingsError: an environment variable names something that cannot be used.
    """
    return _client_context(trust_source(), os.environ.get(KEY_LOG_VARIABLE, ""))


def describe_certificate_fault(error: ssl.SSLError, host: str) -> str:
    """Return a clause on why `host` is not trusted, and how to fix it."""
    reason = one_line(str(getattr(error, "verify_message", "") or error), 200)
    found = f"the certificate of {host} is not trusted ({reason}, by {trust_source()})"
    code = getattr(error, "verify_code", None)
    if code in _CLOCK_CODES:
        return f"{found}; check this machine's clock"
    if code in _HOSTNAME_CODES:
        return f"{found}; another server answers in its place: check the network and the proxy"
    return (
        f"{found}; if a proxy or firewall of your organisation opens TLS connections, set "
        "SSL_CERT_FILE to the file of its certificate authority"
    )


@lru_cache(maxsize=4)
def _client_context(source: TrustSource, key_log: str) -> ssl.SSLContext:
    # A context takes a megabyte of memory, and 20 ms to create.
    _check_key_log(key_log)
    if not source.variable:
        return _system_context()
    _check_path(source)
    path = Path(source.path)
    try:
        if path.is_dir():
            return _default_context(capath=source.path)
        return _default_context(cafile=source.path)
    except ssl.SSLError:
        raise _unusable(source, "which holds no certificate in PEM format") from None
    except OSError as error:
        raise _unusable(source, f"which cannot be read ({error.strerror})") from None


def _system_context() -> ssl.SSLContext:
    if store_needs_system_calls():
        import truststore

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Elsewhere the store consists of files, which `truststore` reloads for each connection.
    context = _default_context()
    paths = ssl.get_default_verify_paths()
    if not context.cert_store_stats()["x509_ca"] and not _has_certificates(paths.capath):
        import certifi

        context.load_verify_locations(cafile=certifi.where())
    return context


def _default_context(cafile: str | None = None, capath: str | None = None) -> ssl.SSLContext:
    """Return a context that validates certificates in the same way on every Python.

    Since 3.13 Python also refuses certificates that violate a formal rule of RFC 5280, as those of
    company certificate authorities often do ("Missing Authority Key Identifier"); browsers and curl
    accept them (https://docs.python.org/3/library/ssl.html#ssl.create_default_context).
    """
    context = ssl.create_default_context(cafile=cafile, capath=capath)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _check_path(source: TrustSource) -> None:
    if not source.path.strip():
        raise _unusable(source, "which names nothing")
    path = Path(source.path)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, ValueError):  # The path is invalid, or access is denied.
        is_folder = is_there = False
    if not is_there:
        home = " (`~` is not expanded here: write the whole path)"
        raise _unusable(source, f"which is not there{home * source.path.startswith('~')}")
    if is_folder and source.variable in ("SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        raise _unusable(source, "which is a folder and not a file")
    if is_folder and not _has_certificates(source.path):
        raise _unusable(source, "a folder without certificates that `openssl rehash` has named")
    if not is_folder and source.variable == "SSL_CERT_DIR":
        raise _unusable(source, "which is a file and not a folder")
    if not is_folder and path.is_file() and not path.stat().st_size:
        raise _unusable(source, "which is empty")


def _check_key_log(path: str) -> None:
    if not path:
        return
    try:
        with Path(path).open("ab"):
            return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise TlsSettingsError(
            f"{KEY_LOG_VARIABLE} is {one_line(path)}, which cannot be written ({reason}): unset it"
        ) from None


def _has_certificates(folder: str | None) -> bool:
    """Return whether `folder` has file names under which OpenSSL finds certificates."""
    try:
        names = [each.name for each in Path(folder).iterdir()] if folder else []
    except OSError:
        return False
    return any(name[:8].isalnum() and name[8:9] == "." and name[9:].isdigit() for name in names)


def _unusable(source: TrustSource, reason: str) -> TlsSettingsError:
    wanted = "a folder of trusted" if source.variable == "SSL_CERT_DIR" else "a PEM file of trusted"
    shown = one_line(source.path) or "blank"
    return TlsSettingsError(
        f"{source.variable} is {shown}, {reason}: name {wanted} certificates, or unset it"
    )
