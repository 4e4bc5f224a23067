"""Headers by which a request shows that it came through a proxy or a tunnel."""

_PROXY_HEADERS = frozenset(
    {
        "cdn-loop",
        "client-ip",
        "forwarded",
        "true-client-ip",
        "via",
        "x-arr-log-id",
        "x-arr-ssl",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-forwarded",
        "x-from-cdn",
        "x-host",
        "x-proxyuser-ip",
        "x-real-ip",
        "x-request-start",
        "x-scheme",
        "x-url-scheme",
        "x-varnish",
    }
)
_PROXY_PREFIXES = (
    "ali-cdn-",
    "cf-",
    "cloudfront-",
    "do-connecting-",
    "fastly-",
    "fly-",
    "incap-",
    "ngrok-",
    "rndr-",
    "tailscale-",
    "x-akamai-",
    "x-amz-cf-",
    "x-amzn-",
    "x-appengine-",
    "x-azure-",
    "x-cloud-trace-",
    "x-envoy-",
    "x-fastly-",
    "x-fd-",
    "x-forwarded-",
    "x-goog-",
    "x-ms-proxy",
    "x-nf-",
    "x-ngrok-",
    "x-original-",
    "x-railway-",
    "x-sucuri-",
    "x-vercel-",
)
"""Headers that proxies and tunnels add, and the prefixes of known vendors' headers."""


def is_proxy_header(name: str) -> bool:
    """Return whether a proxy or a tunnel adds the header `name`, given in lower case."""
    name = name.replace("_", "-")  # Some servers treat `_` in header names as `-`.
    return name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIXES)
