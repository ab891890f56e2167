"""What redacting has to do, judged alike for properties and for the fuzzer; and what secrets look like."""

from agent.core.redact import harmless, redact

SHAPES = (
    "https://user:{}@host/path",
    "https://{}@host/path",
    "https://user:p/{}@host/path",
    "https://host/path?X-Amz-Signature={}",
    "https://host/path?a=1&X-Amz-Security-Token={}&b=2#frag",
    "gs://bucket/key?{}",
    "https://host/p#{}",
    "Authorization: Bearer {}",
    "authorization: Basic {}",
    "{{'Authorization': 'Bearer {}', 'Accept': '*/*'}}",
    '{{"X-Api-Key": "{}"}}',
    "X-Amz-Security-Token: {}",
    "X-Amz-Signature={}",
    "Cookie: session={}",
    "AWS_SECRET_ACCESS_KEY={}",
    "password = {}",
    "Bearer {}",
    "token='{} more'",
    "Credential={}/20260101/us-east-1/s3/aws4_request",
    "hf_{}",
    "eyJhbGciOi.{}.sig",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "AccountKey={};EndpointSuffix=core.windows.net",
    "sig={}",
    "Proxy-Authorization: Negotiate {}",
    "Authorization: AWS4-HMAC-SHA256 Credential={}/2026",
    "Authorization: Token {}",
    "authorization: ApiKey {}",
    "X-Auth-Token: Bearer {}",
    "Cookie: theme=dark; session={}",
    "Set-Cookie: sid={}; Path=/",
    "X-Api-Key: \n Cookie: session={}",
)
"""A secret stands in the braces."""


def judge_hidden(text: str, secret: str) -> None:
    """The secret does not pass."""
    assert secret not in redact(text)


def judge_once(text: str) -> None:
    """Redacting twice is redacting once."""
    assert redact(redact(text)) == redact(text)


def judge_line(text: str) -> None:
    """What is harmless is one line that can be encoded and moves no cursor."""
    shown = harmless(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)
    assert not set(shown) & set("\u202a\u202e\u2066\u200f\u2028\ufeff")
