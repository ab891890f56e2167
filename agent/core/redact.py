"""Text made fit to be shown: no secrets (law 10), one line, nothing that moves a cursor or hides (fault X8).

Both functions are pure and total, and idempotent but for hostile chains (`x:y@x:y@…`), of which `redact`
peels six links. They are the last line of defence and not the first: whoever
words a message leaves secrets out of it. What they know is the shape of secrets, never their values.
"""

import re

from agent.core.uri import redacted

HIDDEN = "***"
_PASSES = 6

_PEM = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s\"'<>]*")
_USERINFO = re.compile(r"://[^\s/?#]*@|://[^\s/?#@:]*:(?!\d{1,5}(?:[/?#\s]|\Z))[^\s@]{0,300}@")
_WORD = (
    r"(?:authorization|cookie|password|passwd|secret|signature|credential|credentials|token"
    r"|api[-_]?key|access[-_]?key(?:[-_]?id)?|secret[-_]?access[-_]?key|private[-_]?key|account[-_]?key|sig)"
)
_HEADER = rf"(?:[A-Za-z0-9_.-]{{0,40}}[-_.])?{_WORD}"
_BETWEEN = r"(?P<between>[\"']?\s{0,4}[:=]\s{0,4})"
# a quote that is never closed does not reach into the next secret's own
_INSIDE = rf"(?!{_WORD}[\"']?\s{{0,4}}[:=])"
_QUOTED = rf"\"(?:{_INSIDE}[^\"])*\"?|'(?:{_INSIDE}[^'])*'?"
_BARE = r"[^\s\"',;&)}\]]+"
_NAMED = re.compile(  # what follows an empty header is the next header, and no value
    rf"(?<![A-Za-z0-9])(?P<name>{_HEADER}){_BETWEEN}(?P<value>{_QUOTED}"
    rf"|(?:(?:Bearer|Basic|Negotiate|AWS4-HMAC-SHA256)\s+)?(?!{_HEADER}[\"']?\s{{0,4}}[:=]){_BARE})",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(  # any scheme's word, then what it brings
    rf"(?P<name>authorization){_BETWEEN}(?P<value>{_QUOTED}|(?:[a-z][\w-]{{0,30}}[ \t]+)?{_BARE})",
    re.IGNORECASE,
)
_COOKIE = re.compile(rf"(?P<name>cookie){_BETWEEN}(?P<value>{_QUOTED}|[^\r\n]+)", re.IGNORECASE)
_NAME = re.compile(_HEADER, re.IGNORECASE)
_SCHEME = re.compile(r"\b(Bearer|Basic|Negotiate)\s+(?!\*\*\*)[A-Za-z0-9+/=._~-]{6,}", re.IGNORECASE)
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{6,}|gh[pousr]_[A-Za-z0-9]{10,}|glpat-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|ya29\.[\w.-]{10,}|eyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?|xox[abp]-[\w-]{10,}|AIza[\w-]{20,})"
)

_BIDI_AND_BREAKS = frozenset(
    "\u0085\u061c\u200b\u200e\u200f\u2028\u2029\ufeff"
    + "".join(map(chr, range(0x202A, 0x202F)))
    + "".join(map(chr, range(0x2060, 0x2070)))
)


def redact(text: str) -> str:
    """Return *text* with what looks like a secret hidden.

    URLs lose userinfo, query and fragment; values after names such as `Authorization:` or
    `X-Amz-Signature=`, bearer words, well-known tokens and private keys become `***`.
    """
    for _ in range(_PASSES):  # what was hidden may make a secret's shape of what stands around it
        shown = _pass(text)
        if shown == text:
            break
        text = shown
    return text


def _pass(text: str) -> str:
    text = _PEM.sub(HIDDEN, text)
    text = _USERINFO.sub("://", text)
    text = _URL.sub(lambda match: redacted(match[0]), text)
    for pattern in (_AUTHORIZATION, _COOKIE, _NAMED):
        text = pattern.sub(_hide_value, text)
    text = _SCHEME.sub(lambda match: f"{match[1]} {HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, text)


def is_secret_name(name: str) -> bool:
    """Tell whether a field or header of this name holds a secret: then its value is not shown at all."""
    return _NAME.fullmatch(name) is not None


def harmless(text: str) -> str:
    r"""Return *text* on one line: control characters, bidirectional marks and lone surrogates as `\x1b`."""
    if text.isprintable():
        return text
    return "".join(_escaped(char) for char in text)


def _hide_value(match: re.Match[str]) -> str:
    quote = match["value"][:1]
    if quote not in {'"', "'"}:
        return f"{match['name']}{match['between']}{HIDDEN}"
    return f"{match['name']}{match['between']}{quote}{HIDDEN}{quote}"


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 32 or 127 <= code < 160:
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char, f"\\x{code:02x}")
    if char in _BIDI_AND_BREAKS or 0xD800 <= code < 0xE000:
        return f"\\u{code:04x}"
    return char
