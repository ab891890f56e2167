"""Starts the proxy's process; without TLS where no probe asks by it: 5 MiB that a pod pays for nothing.

The proxy passes bytes on, and only a readiness probe over https is TLS of its own. asyncio takes a Python
that was built without the ssl module as it comes, so this has to be decided before asyncio is imported.
"""

import os
import sys
from collections.abc import Mapping
from importlib import import_module


def main() -> int:
    """Run `agent.web.proxy_main` with this process's arguments."""
    if not probes_by_tls(os.environ):
        sys.modules["ssl"] = None  # type: ignore[assignment]  # Python's own way to say: not to be had
    return int(import_module("agent.web.proxy_main").main(sys.argv[1:], os.environ))


def probes_by_tls(environ: Mapping[str, str]) -> bool:
    """Whether a probe may be over https; rather once too often, as a path may say so too."""
    return "https" in environ.get("SERVING_READINESS_PROBE", "").lower()


if __name__ == "__main__":
    sys.exit(main())
