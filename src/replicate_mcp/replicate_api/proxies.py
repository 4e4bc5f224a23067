"""The proxy that the environment names, and what to say of one that cannot be used."""

import os
import urllib.request


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy's address for a host; None for none."""
    if urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def unusable_proxy(scheme: str) -> str:
    """Why nothing goes through it, without what its address holds: that may be a password."""
    return (
        f"the proxy that {_variable(scheme)} names cannot be used: write it like http://host:port, "
        "odd characters of a password as %23 and the like"
    )


def _variable(scheme: str) -> str:
    """What names the proxy for addresses of a scheme: a variable, else the system."""
    for wanted in (f"{scheme}_proxy", "all_proxy"):
        for name, value in os.environ.items():
            if value and name.lower() == wanted:
                return name
    return "the system's settings"
