"""TLS of servers in tests."""

import ssl

import trustme


def server_tls(authority: trustme.CA, *names: str, **certificate: object) -> ssl.SSLContext:
    """Make a server's TLS context: a certificate of an authority, for some names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **certificate).configure_cert(context)
    return context
