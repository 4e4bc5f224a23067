"""Company networks on loopback: a certificate authority, a TLS front end and a CONNECT proxy."""

import base64
import datetime
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import ByteStream, SocketAttribute, TaskStatus
from anyio.from_thread import start_blocking_portal
from anyio.streams.tls import TLSStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Handler = Callable[[ByteStream], Awaitable[None]]

API = "api.replicate.test"
"""The host that stands for Replicate's API, reached through the proxy alone."""


class CertificateAuthority:
    """A certificate authority that no machine trusts by default."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example Company CA")])
        certificate = self._signed(self._name, self._key, ca=True)
        self.file = folder / "company-ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server_context(self, *names: str, days: int = 1) -> ssl.SSLContext:
        """Return a context with a certificate for `names`; expired if `days` is negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = self._signed(name, key, names=names, days=days)
        file = self._folder / f"{names[0]}{days}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _signed(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        ca: bool = False,
        names: tuple[str, ...] = (),
        days: int = 1,
    ) -> x509.Certificate:
        now, one_day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * one_day)
            .not_valid_after(now + days * one_day)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(each) for each in names])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self._key, hashes.SHA256())


@contextmanager
def listening(handler: Handler, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve connections in a separate thread; yield the port."""

    async def handle(stream: ByteStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
                if context is not None:
                    stream = await TLSStream.wrap(
                        stream, server_side=True, ssl_context=context, standard_compatible=False
                    )
                await handler(stream)

    async def serve(*, task_status: TaskStatus[int]) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            task_status.started(listener.extra(SocketAttribute.local_port))
            await listener.serve(handle)

    with start_blocking_portal() as portal:
        future, port = portal.start_task(serve)
        yield port
        future.cancel()


async def relay(near: ByteStream, port: int) -> None:
    """Forward bytes in both directions until either end closes."""

    async def one_way(source: ByteStream, sink: ByteStream, scope: anyio.CancelScope) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
            while True:
                await sink.send(await source.receive())
        scope.cancel()

    async with (
        await anyio.connect_tcp("127.0.0.1", port) as far,
        anyio.create_task_group() as group,
    ):
        group.start_soon(one_way, near, far, group.cancel_scope)
        group.start_soon(one_way, far, near, group.cancel_scope)


@contextmanager
def tls_in_front(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """Serve a plain-text port over TLS; yield the new port."""

    async def handle(stream: ByteStream) -> None:
        await relay(stream, port)

    with listening(handle, context) as tls_port:
        yield tls_port


@dataclass
class Proxy:
    """A CONNECT proxy that connects every host to one port.

    Attributes:
        asked: the requested hosts.
        user: the required `name:password`; None without authentication.
    """

    target: int
    user: str | None = None
    port: int = 0
    asked: list[str] = field(default_factory=list)

    async def handle(self, stream: ByteStream) -> None:
        head = ""
        while "\r\n\r\n" not in head:
            head += (await stream.receive()).decode()
        self.asked.append(head.split()[1])
        wanted = base64.b64encode((self.user or "").encode()).decode()
        if self.user is not None and f"Basic {wanted}" not in head:
            refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
            await stream.send(refusal)
            return
        await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await relay(stream, self.target)

    def environment(self, user: str = "") -> dict[str, str]:
        """Return the environment variables that configure it."""
        at = f"{user}@" if user else ""
        return {"HTTPS_PROXY": f"http://{at}127.0.0.1:{self.port}"}


@contextmanager
def proxy(target: int, user: str | None = None) -> Iterator[Proxy]:
    """Run a proxy while the block runs."""
    running = Proxy(target, user)
    with listening(running.handle) as running.port:
        yield running


@dataclass
class Company:
    """A network that reaches Replicate only through a TLS-intercepting proxy."""

    authority: CertificateAuthority
    proxy: Proxy

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables of a machine in the network."""
        return {
            "SSL_CERT_FILE": str(self.authority.file),
            "REPLICATE_BASE_URL": f"https://{API}",
            **self.proxy.environment(),
        }


@contextmanager
def company(
    folder: Path, simulator_port: int, *, days: int = 1, name: str = API
) -> Iterator[Company]:
    """Run the network, with the simulator behind its proxy."""
    authority = CertificateAuthority(folder)
    context = authority.server_context(name, "replicate.delivery", days=days)
    with tls_in_front(simulator_port, context) as port, proxy(port) as running:
        yield Company(authority, running)


NETWORK_VARIABLES = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSLKEYLOGFILE",
    "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY",
)  # fmt: skip
