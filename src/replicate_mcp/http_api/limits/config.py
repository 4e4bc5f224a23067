"""Request limits of the server: sizes, timeouts and counts, with their sources."""

from dataclasses import dataclass, replace

from replicate_mcp.mcp_server.jsonrpc_lines import MAX_LINE_MARKS

MIB = 1024 * 1024

MARK_BYTES = 128
"""Bytes counted for a comma, `[` or `{`: an empty object takes 64, one with a value over 200."""

RETRY_AFTER_SECONDS = 5
"""`Retry-After` of a request over a limit.

A retry succeeds once some of what the caller has open has ended.
"""

_DESCRIPTORS_OF_OUR_OWN = 700
"""File descriptors not available to clients: for some hundred creations, Redis and files."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one process; requests that exceed them are refused before they use resources.

    Attributes:
        header_bytes: bytes of a request's headers together; nginx accepts 32 KiB as well.
        body_bytes: bytes of a request body: enough for a thousand tasks, or for some input images
            as data URIs.
        mcp_body_bytes: bytes of a body sent to MCP; the limit of its SDK.
        body_marks: commas, `[` and `{` of a body: enough for five hundred in each of a thousand
            tasks, prompts included. The parsed values then take some 100 MB at most.
        mcp_body_marks: the same for MCP, whose SDK parses bodies on the event loop; a thousand
            tasks of twenty inputs have 40,000.
        header_seconds: time for a request's headers to arrive, from the connection or from their
            first byte; as in Apache's mod_reqtimeout.
        body_seconds: time for a request's whole body to arrive; like nginx's client_body_timeout,
            which limits the pause between two reads only.
        unread_seconds: time for a client to read the buffered part of its answer, 64 KiB or less,
            before it is sent more; as nginx's send_timeout, with a minimum rate.
        linger_seconds: time to wait for more of a refused body, which is read and discarded, since
            clients would not see the refusal otherwise; as nginx's lingering_timeout.
        linger_total_seconds: total time to read a refused body; as nginx's lingering_time.
        open_requests: concurrent requests of all clients, idle streams included. Ten times the 200
            callers that the benchmarks measure.
        held_body_bytes: bytes of all concurrent requests' bodies and answers together, beyond the
            first `small_body_bytes` of each: thirty-two of the largest texts, or eight with the
            most values, since each mark counts `MARK_BYTES` more.
        small_body_bytes: bytes of each body and each answer that are not counted; also the size of
            the pieces in which answers are sent.
        batch_bytes: memory of all accounts' running batches, mostly for their inputs. One account
            may use a quarter.
        sessions: concurrent sessions of MCP's older revisions; the limit of its SDK, 40 kB each.
        session_idle_seconds: time after which the SDK ends an idle session.
        connections: concurrent connections; a new one beyond them closes the one that has been idle
            for longest.
    """

    header_bytes: int = 32 * 1024
    body_bytes: int = 16 * MIB
    mcp_body_bytes: int = 4 * MIB
    body_marks: int = 500_000
    mcp_body_marks: int = MAX_LINE_MARKS
    header_seconds: float = 20
    body_seconds: float = 60
    unread_seconds: float = 60
    linger_seconds: float = 5
    linger_total_seconds: float = 30
    open_requests: int = 2_000
    held_body_bytes: int = 512 * MIB
    small_body_bytes: int = 64 * 1024
    batch_bytes: int = 512 * MIB
    sessions: int = 10_000
    session_idle_seconds: float = 1_800
    connections: int = 4_000

    def fitting(self, descriptors: int | None) -> "Limits":
        """Return these limits, reduced to what the process's file descriptors allow.

        Args:
            descriptors: how many files and sockets the process may open; None for any number.
        """
        if descriptors is None:
            return self
        connections = min(self.connections, max(64, descriptors - _DESCRIPTORS_OF_OUR_OWN))
        # Half of them, so that there is always an idle connection to close for a new one.
        open_requests = min(self.open_requests, connections // 2)
        return replace(self, connections=connections, open_requests=open_requests)


DEFAULT_LIMITS = Limits()
