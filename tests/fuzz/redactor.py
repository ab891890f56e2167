"""The redactor: a planted secret never survives, whatever surrounds it; twice is once; one harmless line."""

from tests.core.redaction import SHAPES, judge_hidden, judge_line, judge_once

CANARY = "canaryABC012canary"


def one(data: bytes) -> None:
    text = data[1:].decode("utf-8", "surrogateescape")
    before, _, after = text.partition("\x00")
    shape = SHAPES[(data[0] if data else 0) % len(SHAPES)].format(CANARY)
    # a line of its own: what is glued to a secret may make it another word
    around = f"{before} \n {shape} \n {after}"
    judge_hidden(around, CANARY)
    if text.count("@") < 3:  # each may be a link of a chain, of which redact peels six
        judge_once(around)
        judge_once(text)
    judge_line(text)
