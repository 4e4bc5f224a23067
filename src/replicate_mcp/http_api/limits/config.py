"""How much a server takes from the network: sizes, clocks and counts, and where each is from."""

from dataclasses import dataclass, replace

from replicate_mcp.mcp_server.jsonrpc_lines import MAX_LINE_MARKS

MIB = 1024 * 1024

MARK_BYTES = 128
"""What a comma, `[` or `{` counts as: an empty object takes 64 bytes, one with a value over 200."""

RETRY_AFTER_SECONDS = 5
"""What a caller is told that has too much open: it may retry once something of it has ended."""

_DESCRIPTORS_OF_OUR_OWN = 700
"""Left to everything but callers: some hundred creations, Redis, files."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process takes; what is beyond is refused before it costs anything.

    Attributes:
        header_bytes: of a request's headers together: nginx takes 32 KiB as well.
        body_bytes: of a request: enough for a thousand tasks, or some input images as data URIs.
        mcp_body_bytes: of a request to MCP: what its SDK takes.
        body_marks: commas, `[` and `{` of a body: enough for five hundred in each of a thousand
            tasks, prompts included; what is read of it takes some 100 MB at most then.
        mcp_body_marks: the same of a request to MCP, whose SDK reads it on the event loop: a
            thousand tasks of twenty inputs take 40,000.
        header_seconds: until a request's headers have to be here, counted from the connection or
            from their first byte; as in Apache's mod_reqtimeout.
        body_seconds: until its body has to be here: nginx's client_body_timeout, but in all.
        unread_seconds: within which a client has to read what is held of its answer, 64 KiB or
            less, before it is sent more; nginx's send_timeout, with a least rate.
        linger_seconds: for which more of a body that was refused is waited for; what comes is read
            and dropped, else clients do not see the refusal; nginx's lingering_timeout.
        linger_total_seconds: for which it is read in all; nginx's lingering_time.
        open_requests: open at once, in all; a stream that says nothing counts as well. Ten times
            the 200 callers that the benchmarks measure.
        held_body_bytes: of the bodies of all open requests and of their answers together, beyond
            the first `small_body_bytes` of each: thirty-two of the largest texts, or eight of the
            most values, each mark of which counts `MARK_BYTES` more.
        batch_bytes: of memory that batches take until they have ended, mostly by their inputs;
            of all accounts together. One account may have a quarter.
        sessions: of MCP's older revisions, open in all: as its SDK has it, 40 kB each.
        session_idle_seconds: after which the SDK ends one.
        connections: in all; a new one beyond them closes the one that has been idle for longest.
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
        """These, or less where the system gives a process too few descriptors for them."""
        if descriptors is None:
            return self
        connections = min(self.connections, max(64, descriptors - _DESCRIPTORS_OF_OUR_OWN))
        # Half of them: so there always is an idle one to close for a new one.
        open_requests = min(self.open_requests, connections // 2)
        return replace(self, connections=connections, open_requests=open_requests)


DEFAULT_LIMITS = Limits()
