"""The redactor: a planted secret never survives, whatever surrounds it; twice is once; one harmless line."""

from agent.core.redact import harmless, redact

CANARY = "canaryABC012canary"
SHAPES = (
    "https://user:{}@host/path",
    "https://{}@host/path",
    "https://user:p/{}@host/path",
    "https://host/path?X-Amz-Signature={}",
    "https://host/path?a=1&X-Amz-Security-Token={}&b=2#frag",
    "https://host/p#{}",
    "Authorization: Bearer {}",
    "{{'Authorization': 'Bearer {}', 'Accept': '*/*'}}",
    '{{"X-Api-Key": "{}"}}',
    "X-Amz-Security-Token: {}",
    "X-Amz-Signature={}",
    "Cookie: session={}",
    "AWS_SECRET_ACCESS_KEY={}",
    "password = {}",
    "Bearer {}",
    "token='{} more'",
    "hf_{}",
    "eyJhbGciOi.{}.sig",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "AccountKey={};EndpointSuffix=core.windows.net",
    "Proxy-Authorization: Negotiate {}",
    "authorization: ApiKey {}",
    "Cookie: theme=dark; session={}",
)


def one(data: bytes) -> None:
    text = data[1:].decode("utf-8", "surrogateescape")
    before, _, after = text.partition("\x00")
    shape = SHAPES[(data[0] if data else 0) % len(SHAPES)].format(CANARY)
    # a line of its own: what is glued to a secret may make it another word
    shown = redact(f"{before} \n {shape} \n {after}")
    assert CANARY not in shown
    if text.count("@") < 3:  # each may be a link of a chain, of which redact peels six
        assert redact(shown) == shown
        assert redact(redact(text)) == redact(text)
    line = harmless(text)
    line.encode()
    assert len(line.splitlines()) <= 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in line)
