"""The connection to Redis: cut connections, lost responses, passwords, TLS and call coalescing."""

import asyncio
import logging
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
from anyio.abc import TaskGroup

from backends.conftest import LEASE, Fleet, until
from backends.link import Link, link_to
from backends.servers import KINDS, RunningServer
from backends.steps import OWN, attempt, begin, failed, finish, state, take_all
from replicate_mcp.app.composition import open_backend
from replicate_mcp.backends.redis import connection
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.redis.connection import Address, RedisConnection, masked
from replicate_mcp.batches.journal import IdempotencyKey, IdempotencyKeyExists
from replicate_mcp.errors import (
    BackendUnavailable,
    InvalidInput,
    ReplicateMcpError,
    UnknownSemaphore,
)
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.permit_store import AdmissionResult, QueueEntry

T = TypeVar("T")

Linked = tuple[Fleet, Link, RedisBackend]


@pytest.fixture
async def linked(fleet: Fleet) -> AsyncIterator[Linked]:
    """Return a process whose connection to the server can be disturbed."""
    async with link_to(fleet.server) as link:
        yield fleet, link, await fleet.holder(port=link.port)
        await fleet.close()


# Lost responses.


async def lose_two_responses(step: Callable[[], Awaitable[T]], link: Link) -> T:
    """Have a call carried out and its response lost twice, so that it is repeated."""
    link.lose_answers(2)
    with pytest.raises(BackendUnavailable, match="cannot be used"):
        await step()
    return await step()


async def test_attempt_with_lost_response_is_recorded_once_or_its_task_is_requeued(
    linked: Linked,
) -> None:
    _, link, one = linked
    admission = await begin(one, "b", 5)
    link.lose_answers(1)
    permits = await take_all(one, admission)
    assert permits == [offer.permit for offer in admission.offers]
    await finish(one, permits[0], "b", failed(0))
    more = await one.admit()
    assert await lose_two_responses(lambda: take_all(one, more), link) == []
    assert await state(one) == (2, 2)
    assert len((await one.admit()).offers) == 1


async def test_result_with_lost_response_is_recorded_once(linked: Linked) -> None:
    _, link, one = linked
    permits = await take_all(one, await begin(one, "b", 5))
    result = failed(0, "p1")
    admission = await lose_two_responses(lambda: finish(one, permits[0], "b", result), link)
    assert await state(one) == (3, 1)
    assert len(admission.offers) == 1
    assert [row.prediction_id for row in await one.results("b")] == ["p1"]


async def test_permit_requeued_twice_makes_its_task_wait_once(linked: Linked) -> None:
    _, link, one = linked
    permits = await take_all(one, await begin(one, "b", 3))
    throttling = Throttling(retry_after=60, per_minute=6, burst=1)
    await lose_two_responses(lambda: one.requeue(permits[0], throttling), link)
    assert await state(one) == (2, 1)
    (account,) = await one.semaphores()
    assert account.requests_per_minute == pytest.approx(5.4)


async def test_enqueue_and_dequeue_with_lost_response_are_applied_once(
    linked: Linked,
) -> None:
    _, link, one = linked
    await one.register("team", 1)
    entry = QueueEntry("contexts", ("team",), None, 3)
    link.lose_answers(1)
    await one.enqueue(entry)
    assert await state(one, "team") == (1, 2)
    link.lose_answers(1)
    await one.dequeue("contexts", 2)
    assert await state(one, "team") == (1, 0)
    # Cancelled calls have no effect.
    link.lose_answers(2)
    with pytest.raises(BackendUnavailable):
        await one.enqueue(entry)
    assert sum(await state(one, "team")) == 1


async def test_failed_read_does_not_hide_that_a_call_before_may_have_been_applied(
    linked: Linked,
) -> None:
    _, link, one = linked
    await one.register("team", 1)
    link.lose_answers(2)
    with pytest.raises(BackendUnavailable):
        await one.enqueue(QueueEntry("contexts", ("team",), None, 3))
    link.lose_answers(2)
    with pytest.raises(BackendUnavailable):
        await one.get_batch("b")
    assert await state(one, "team") == (0, 0)


async def test_repeated_dequeue_is_applied_once(linked: Linked) -> None:
    _, link, one = linked
    await one.register("team", 1)
    await one.enqueue(QueueEntry("contexts", ("team",), None, 4))
    await lose_two_responses(lambda: one.dequeue("contexts", 1), link)
    assert await state(one, "team") == (1, 2)


async def test_batch_with_lost_open_response_is_opened_once_or_ended(linked: Linked) -> None:
    _, link, one = linked
    link.lose_answers(1)
    assert len((await begin(one, "b1", 2)).offers) == 2
    link.lose_answers(2)
    with pytest.raises(BackendUnavailable):
        await begin(one, "b2", 1)
    assert sum(await state(one)) == 2
    batch = await one.get_batch("b2")
    assert batch is None or batch.status == "completed"


async def test_permit_released_over_a_broken_connection_becomes_free(linked: Linked) -> None:
    _, link, one = linked
    await one.register("team", 1)
    admission = await one.enqueue(QueueEntry("contexts", ("team",), None, 1))
    (permit,) = (await one.accept_offers([offer.permit for offer in admission.offers])).permits
    await link.cut()
    with pytest.raises(BackendUnavailable):
        await one.release(permit)
    await link.restore()
    assert await state(one, "team") == (0, 0)


async def test_call_that_arrives_out_of_order_is_ignored(fleet: Fleet) -> None:
    one = await fleet.holder()
    admission = await begin(one, "b", 1)
    membership = one._session
    late = membership._sequence
    await one.dequeue("b")
    arguments = {"entry": "b", "semaphores": ["account:acme"], "account": "acme", "wanted": 9}
    answer = await one._server.call("enqueue", membership.holder, arguments, sequence=late)
    assert answer == ["late"]
    assert await state(one) == (0, 0)
    assert await take_all(one, admission) == []


# Cut connections.


async def test_unreachable_server_raises_a_clear_error_and_reconnects_later(
    linked: Linked,
) -> None:
    _, link, one = linked
    permits = await take_all(one, await begin(one, "b", 4))
    await link.cut()
    with pytest.raises(BackendUnavailable, match=r"Redis at redis://127\.0\.0\.1:\d+/0 cannot be"):
        await one.admit()
    await link.restore()
    assert len((await finish(one, permits[0], "b", failed(0))).offers) == 1


async def test_holder_receives_wakeups_again_after_reconnecting(
    linked: Linked,
) -> None:
    fleet, link, one = linked
    two = await fleet.holder(limit=1)
    (permit,) = await take_all(two, await begin(two, "b2", 1))
    await begin(one, "b1", 1)
    await link.cut()
    await link.restore()
    with anyio.fail_after(10):
        await one.wait_for_wakeup()  # The connection is back: wake-ups may have been missed.
    await finish(two, permit, "b2", failed(0))
    with anyio.fail_after(10):
        await one.wait_for_wakeup()
    assert len((await one.admit()).offers) == 1


async def test_call_to_paused_server_times_out_and_recovers(fragile: Fleet) -> None:
    one = await fragile.holder()
    await begin(one, "b", 1)
    fragile.server.pause()
    with anyio.fail_after(5), pytest.raises(BackendUnavailable, match="no answer within 1 s"):
        await one.admit()
    fragile.server.go_on()
    await until(lambda: _answers(one))


async def _answers(backend: RedisBackend) -> bool:
    try:
        return bool(await backend.semaphores())
    except BackendUnavailable:
        return False


async def test_connection_error_hides_the_password() -> None:
    url = "redis://user:hunter2@127.0.0.1:1/0"
    with pytest.raises(BackendUnavailable) as error:
        await open_backend(url)
    assert "redis://user:***@127.0.0.1:1/0" in str(error.value)
    assert "hunter2" not in "".join(traceback.format_exception(error.value))
    assert "hunter2" not in repr(Address.parse(url))


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://h:port",
        "http://h",
        *(f"redis://h/?lease={n}" for n in ("soon", 0, "inf")),
    ],
)
async def test_invalid_url_is_rejected_with_an_example_of_a_valid_one(url: str) -> None:
    with pytest.raises(BackendUnavailable, match="redis://user:password@host:6379/0"):
        Address.parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:pa/ss@host", "redis://u:pa#ss@host", "redis://:pa?s@h", "redis://:7/pass@host/0",
        "redis://u:12/pass@h:6379", "redis://u:1#pass@h", "redis://u:1?pass@h",
    ],
)  # fmt: skip
def test_unescaped_password_is_never_shown_in_url_or_error(url: str) -> None:
    assert "pa" not in masked(url).replace("REPLICATE", "")
    with pytest.raises(BackendUnavailable) as error:
        Address.parse(url)
    assert "pa" not in str(error.value).replace("password", "")


@pytest.mark.parametrize("option", ["leese=5", "retry=3", "db=one", "ssl_cert_reqs=none"])
async def test_unknown_url_option_is_rejected_by_name(
    servers: Callable[[str], RunningServer], option: str
) -> None:
    name = option.partition("=")[0]
    with pytest.raises(BackendUnavailable, match=f"an option that the Redis .* use: {name}"):
        await open_backend(f"{servers('redis').url()}&{option}")


def test_masked_url_shows_no_secrets() -> None:
    assert masked("rediss://:secret@host:6380/2?ssl_ca_certs=x") == "rediss://***@host:6380/2"
    assert masked("redis://host") == "redis://host"


# Passwords and TLS.


async def test_password_is_read_from_the_url_and_a_wrong_one_is_reported(
    own_server: RunningServer,
) -> None:
    own_server.configure(requirepass="hunter2")
    address = f"127.0.0.1:{own_server.port}/0?lease={LEASE}"
    for wrong in (address, f":nope@{address}"):
        with pytest.raises(BackendUnavailable, match="refuses the user or the password") as error:
            await RedisBackend.open(f"redis://{wrong}")
        assert "nope" not in str(error.value)
    backend = await RedisBackend.open(f"redis://:hunter2@{address}")
    await backend.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a certificate for loopback and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def test_rediss_encrypts_and_trusts_only_the_configured_ca(
    certificate: Path, servers: Callable[[str], RunningServer]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with link_to(servers("valkey"), context) as link:
        url = f"rediss://127.0.0.1:{link.port}/0?prefix=tls"
        with pytest.raises(BackendUnavailable, match="certificate"):
            await RedisBackend.open(url)
        backend = await RedisBackend.open(f"{url}&ssl_ca_certs={certificate}")
        await backend.declare_limit("account:acme", 3, per_minute=60)
        assert [each.name for each in await backend.semaphores()] == ["account:acme"]
        await backend.close()


# Wake-ups.


@pytest.fixture(params=KINDS)
async def listening(
    request: pytest.FixtureRequest, servers: Callable[[str], RunningServer]
) -> AsyncIterator[tuple[RedisConnection, RunningServer]]:
    """Return a process's connection to a server, which receives its wake-ups."""
    running = servers(request.param)
    server = RedisConnection(Address.parse(running.url("wakes")))
    await server.listen("me")
    yield server, running
    await server.close()


async def wakes(server: RedisConnection, within: float) -> bool:
    with anyio.move_on_after(within):
        await server.wait_for_wakeup("me")
        return True
    return False


async def test_only_a_wakeup_of_the_own_holder_ends_the_wait(
    listening: tuple[RedisConnection, RunningServer],
) -> None:
    server, running = listening
    with running.client as client:
        before = [each["id"] for each in client.client_list("pubsub")]
        assert client.publish("{wakes}:wake:another", "") == 0
        assert not await wakes(server, 0.05)
        assert client.publish("{wakes}:wake:me", "") == 1
        assert await wakes(server, 5)
        assert not await wakes(server, 0.05)
        assert [each["id"] for each in client.client_list("pubsub")] == before, "not anew"


async def test_wakeups_are_received_again_after_their_connection_was_cut(
    listening: tuple[RedisConnection, RunningServer],
) -> None:
    server, running = listening
    with running.client as client:
        for _ in range(2):
            client.client_kill_filter(_type="pubsub")
            assert await wakes(server, 5), "something may have been missed"
            assert client.publish("{wakes}:wake:me", "") == 1
            assert await wakes(server, 5)


async def test_wakeups_are_awaited_while_the_server_is_unreachable(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "RECONNECT_SECONDS", 0.01)
    caplog.set_level(logging.DEBUG)

    async def failed_again() -> bool:
        return any("cannot be used" in message for message in caplog.messages)

    async with link_to(fleet.server) as link:
        server = RedisConnection(Address.parse(fleet.server.url(fleet.prefix, port=link.port)))
        await server.listen("me")
        await link.cut()
        async with anyio.create_task_group() as group:
            group.start_soon(server.wait_for_wakeup, "me")
            await until(failed_again)
            await link.restore()
        with fleet.server.client as client:
            assert client.publish(fleet.key("wake:me"), "") == 1
        assert await wakes(server, 5)
        await server.close()


async def test_closing_a_holder_leaves_no_connection(
    listening: tuple[RedisConnection, RunningServer],
) -> None:
    server, running = listening
    assert (await server.server_info())["role"] == "master"
    await server.close()
    with running.client as client:

        async def is_gone() -> bool:
            return bool(client.pubsub_numsub("{wakes}:wake:me") == [("{wakes}:wake:me", 0)])

        await until(is_gone)


async def test_cancelled_attempt_to_connect_closes_its_connection() -> None:
    closed = anyio.Event()

    async def answer_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # Until the client closes the connection.
        closed.set()
        writer.close()

    silent = await asyncio.start_server(answer_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    server = RedisConnection(Address.parse(f"redis://127.0.0.1:{port}/0"))
    with anyio.move_on_after(0.05) as tried:
        await server.listen("me")
    assert tried.cancelled_caught
    with anyio.fail_after(5):
        await closed.wait()
    await server.close()
    silent.close()


async def test_cancelled_opening_closes_its_connections(fleet: Fleet) -> None:
    with fleet.server.client as client:
        client.client_pause(5_000, all=False)  # Scripts wait, subscriptions do not.

        async def listens() -> bool:
            return bool(client.pubsub_channels(fleet.key("wake:*")))

        async def is_gone() -> bool:
            return not await listens()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(RedisBackend.open, fleet.server.url(fleet.prefix))
                await until(listens)
                group.cancel_scope.cancel()
            await until(is_gone)
        finally:
            client.client_unpause()


# Calls that wait for the same lock.


class Queue:
    """Calls that wait until the process has its lock."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self.answers: dict[str, object] = {}

    def ask(
        self,
        name: str,
        step: Callable[[], Awaitable[object]],
        scope: anyio.CancelScope | None = None,
    ) -> None:
        async def answer() -> None:
            with scope or anyio.CancelScope():
                try:
                    self.answers[name] = await step()
                except (IdempotencyKeyExists, ReplicateMcpError) as error:
                    self.answers[name] = error

        self._group.start_soon(answer)


@asynccontextmanager
async def waiting(backend: RedisBackend, group: TaskGroup) -> AsyncIterator[Queue]:
    """Hold the lock during the block, so that its calls wait until the block ends."""
    async with backend._session.lock():
        yield Queue(group)
        await anyio.wait_all_tasks_blocked()


async def test_concurrent_calls_are_coalesced_into_one_round_trip(fleet: Fleet) -> None:
    one = await fleet.holder(limit=40)
    with fleet.server.client as client:
        client.config_resetstat()
        async with anyio.create_task_group() as group, waiting(one, group) as queue:
            for n in range(40):
                queue.ask(f"b{n}", partial(begin, one, f"b{n}", 2))
        offers = (await one.admit()).offers
        async with anyio.create_task_group() as group, waiting(one, group) as queue:
            for o in offers:
                queue.ask(o.entry, partial(one.record_attempts, {o.permit: attempt(o.entry, 0)}))
        async with anyio.create_task_group() as group, waiting(one, group) as queue:
            for o in offers:
                queue.ask(o.entry, partial(finish, one, o.permit, o.entry, failed(0)))
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert len(offers) == 40
    assert await state(one) == (40, 0)
    assert [len(await one.results(f"b{n}")) for n in range(40)] == [1] * 40
    assert calls < 40


async def test_accepting_an_offer_takes_priority_over_other_queued_calls(fleet: Fleet) -> None:
    one = await fleet.holder()
    admission = await begin(one, "b", 1)
    async with anyio.create_task_group() as group, waiting(one, group) as queue:
        for n in range(9):
            queue.ask(f"admit {n}", one.admit)
        queue.ask("take", lambda: take_all(one, admission))
    assert list(queue.answers).index("take") <= 1
    assert queue.answers["take"] == [offer.permit for offer in admission.offers]


async def test_each_coalesced_batch_gets_its_own_response(fleet: Fleet) -> None:
    one = await fleet.holder()
    key = IdempotencyKey("k", "digest")
    async with anyio.create_task_group() as group, waiting(one, group) as queue:
        queue.ask("b1", lambda: begin(one, "b1", 1, key=key))
        queue.ask("b2", lambda: begin(one, "b2", 1, key=key))
        queue.ask("b3", lambda: begin(one, "b3", 1, also=("unknown",)))
        queue.ask("b4", lambda: begin(one, "b4", 1))
    b1, b2, b3, b4 = (queue.answers[f"b{n}"] for n in range(1, 5))
    assert isinstance(b1, AdmissionResult)
    assert [offer.entry for offer in b1.offers] == ["b1", "b4"]
    assert b4 == b1
    assert isinstance(b2, IdempotencyKeyExists)
    assert b2.batch_id == "b1"
    assert isinstance(b3, UnknownSemaphore)
    assert await one.get_batch("b2") is None


async def test_key_that_cannot_be_sent_is_refused_before_it_is_coalesced(fleet: Fleet) -> None:
    one = await fleet.holder()
    invalid = IdempotencyKey("\ud800", "digest")
    async with anyio.create_task_group() as group, waiting(one, group) as queue:
        queue.ask("b1", lambda: begin(one, "b1", 1))
        queue.ask("b2", lambda: begin(one, "b2", 1, key=invalid))
    assert isinstance(queue.answers["b1"], AdmissionResult)
    assert isinstance(queue.answers["b2"], InvalidInput)


async def test_calls_coalesced_with_a_failed_call_are_still_answered(
    linked: Linked,
) -> None:
    _, link, one = linked
    permits = await take_all(one, await begin(one, "b", 5))
    async with anyio.create_task_group() as group, waiting(one, group) as queue:
        for task, permit in enumerate(permits):
            queue.ask(f"{task}", partial(finish, one, permit, "b", failed(task)))
        link.lose_answers(2)
    assert [type(queue.answers[f"{task}"]) for task in range(3)] == [
        BackendUnavailable,
        AdmissionResult,
        AdmissionResult,
    ]
    assert {row.task_index for row in await one.results("b")} == {0, 1, 2}
    assert await state(one) == (2, 0)


async def test_cancelled_record_attempts_call_leaves_no_attempt(fragile: Fleet) -> None:
    one = await fragile.holder(limit=2)
    first, second = (await begin(one, "b", 2)).offers
    given_up = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        async with waiting(one, group) as queue:
            queue.ask("first", lambda: take_all(one, AdmissionResult((first,))))
            queue.ask("second", lambda: take_all(one, AdmissionResult((second,))), given_up)
            fragile.server.pause()
        await anyio.wait_all_tasks_blocked()
        given_up.cancel()
        await anyio.wait_all_tasks_blocked()
        fragile.server.go_on()
    assert queue.answers == {"first": [first.permit]}
    assert await state(one) == (1, 1)
    assert len((await one.admit()).offers) == 1


async def test_response_received_before_caller_was_cancelled_is_returned(fleet: Fleet) -> None:
    one = await fleet.holder(limit=2)
    first, second = (await begin(one, "b", 2)).offers
    given_up = anyio.CancelScope()

    async def take_and_cancel() -> list[int]:
        permits = await take_all(one, AdmissionResult((first,)))
        given_up.cancel()
        return permits

    async with anyio.create_task_group() as group, waiting(one, group) as queue:
        queue.ask("first", take_and_cancel)
        queue.ask("second", lambda: take_all(one, AdmissionResult((second,))), given_up)
    assert given_up.cancel_called
    assert queue.answers == {"first": [first.permit], "second": [second.permit]}


# Round trips.


async def test_task_costs_two_round_trips(fleet: Fleet) -> None:
    # Not started with `run`, so no lease renewals are counted.
    one = await RedisBackend.open(fleet.server.url(fleet.prefix, lease=600))
    await one.declare_limit(OWN, 1, per_minute=60_000)
    tasks = 20
    admission = await begin(one, "b", tasks)
    with fleet.server.client as client:
        client.config_resetstat()
        for task in range(tasks):
            (offer,) = admission.offers
            await one.record_attempts({offer.permit: attempt("b", task)})
            admission = await finish(one, offer.permit, "b", failed(task, f"p{task}"))
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert calls == 2 * tasks
    await one.close()


async def test_resync_and_close_reads_do_not_grow_with_the_number_of_accounts(
    fleet: Fleet,
) -> None:
    one = await RedisBackend.open(fleet.server.url(fleet.prefix))
    accounts = {f"account:user{n}" for n in range(50)}
    for account in accounts:
        await one.declare_limit(account, 3, per_minute=60)
    with fleet.server.client as client:
        fleet.forget("limits")
        client.config_resetstat()
        assert {each.name for each in await one.semaphores()} == accounts
        await one.close()
        calls = client.info("commandstats")["cmdstat_hgetall"]["calls"]
    assert calls < 50
