"""TLS for the readiness probes over https, the one use that the proxy's process has for it."""

import ssl


def trusting() -> ssl.SSLContext:
    """Trust anybody: the kubelet's own https probes do. Reads no certificates, which would take a while."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
