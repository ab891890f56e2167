import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.quantity import MAX_INT64, Format, Quantity, parse_quantity

NUMBERS = st.from_regex(r"[0-9]{1,12}(\.[0-9]{0,12})?|\.[0-9]{1,12}", fullmatch=True)
SUFFIXES = st.one_of(
    st.sampled_from(["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "n", "u", "m", "k", "M", "G", "T", "P", "E"]),
    st.from_regex(r"[eE][+-]?[0-9]{1,2}", fullmatch=True),
)
TEXTS = st.builds("{}{}{}".format, st.sampled_from(["", "+", "-"]), NUMBERS, SUFFIXES)


# the texts on the right are what Kubernetes prints for those on the left
@pytest.mark.parametrize(
    ("text", "printed", "form"),
    [
        ("0", "0", Format.DECIMAL_SI),
        ("0Mi", "0", Format.BINARY_SI),
        ("1.5Gi", "1536Mi", Format.BINARY_SI),
        ("1024Mi", "1Gi", Format.BINARY_SI),
        ("1Gi", "1Gi", Format.BINARY_SI),
        ("1000Mi", "1000Mi", Format.BINARY_SI),
        ("0.5Ki", "512", Format.BINARY_SI),
        ("1Ki", "1Ki", Format.BINARY_SI),
        ("0.1Gi", "107374182400m", Format.BINARY_SI),
        ("0.0001Ki", "102400u", Format.DECIMAL_SI),
        ("1.5", "1500m", Format.DECIMAL_SI),
        ("1000M", "1G", Format.DECIMAL_SI),
        ("0.5G", "500M", Format.DECIMAL_SI),
        ("100M", "100M", Format.DECIMAL_SI),
        ("0.1n", "1n", Format.DECIMAL_SI),
        ("-0.1n", "-1n", Format.DECIMAL_SI),
        ("1e-99999999999", "1e-9", Format.DECIMAL_EXPONENT),
        ("1.2345", "1234500u", Format.DECIMAL_SI),
        ("1.G", "1G", Format.DECIMAL_SI),
        (".5M", "500k", Format.DECIMAL_SI),
        ("1E", "1E", Format.DECIMAL_SI),
        ("1000E", "1e21", Format.DECIMAL_SI),
        ("1e3", "1e3", Format.DECIMAL_EXPONENT),
        ("1E5", "100e3", Format.DECIMAL_EXPONENT),
        ("5e-3", "5e-3", Format.DECIMAL_EXPONENT),
        ("12e0", "12", Format.DECIMAL_EXPONENT),
        ("8Ei", str(MAX_INT64), Format.BINARY_SI),
        ("-8Ei", str(-MAX_INT64), Format.BINARY_SI),
        ("18446744073709551616", "18446744073709551616", Format.DECIMAL_SI),
        ("-1Gi", "-1Gi", Format.BINARY_SI),
        (" 256Mi\n", "256Mi", Format.BINARY_SI),
    ],
)
def test_quantities_are_read_and_printed_as_kubernetes_does(text, printed, form):
    quantity = parse_quantity(text)
    assert (quantity.canonical(), quantity.format) == (printed, form)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NaN",
        "nan",
        "Infinity",
        "-inf",
        "1_000Mi",
        "\uff11Mi",
        "\u0661Mi",
        "1 Gi",
        "1. 5Gi",
        "0x10",
        "1GiB",
        "1g",
        "1ki",
        "1KI",
        "1.1.M",
        "1+1.0M",
        "0.1mi",
        "0.1am",
        "aoeu",
        ".5i",
        "1i",
        "-3.01i",
        "-3.01e-",
        "1e",
        "1e1.5",
        "--1",
        "+-1",
        "1,5",
        "Gi",
        "+",
        ".",
        "e5",
        "true",
        "null",
        "1Mi\x00",
        "1\u00a0",
        "1e1000",
        "1" * 300,
    ],
)
def test_what_is_no_quantity_is_refused_in_words(text):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        parse_quantity(text)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused_by_a_value_error(text):
    with contextlib.suppress(ValueError):
        parse_quantity(text)


@given(TEXTS)
def test_the_printed_text_reads_back_to_the_same_value_and_prints_the_same(text):
    once = parse_quantity(text)
    again = parse_quantity(once.canonical())
    assert again == once
    assert again.canonical() == once.canonical()


@pytest.mark.parametrize("text", ["10000e999", "1000e998", "1e999"])
def test_the_largest_exponents_are_printed_as_they_can_be_read(text):
    assert parse_quantity(parse_quantity(text).canonical()) == parse_quantity(text)


@given(TEXTS)
def test_bytes_are_the_least_whole_number_not_below_the_value(text):
    quantity = parse_quantity(text)
    whole = quantity.bytes_ceil()
    assert (whole - 1) * 10**9 < quantity.nanos <= whole * 10**9


@given(TEXTS, TEXTS)
def test_order_and_equality_are_those_of_the_numbers_whatever_the_format(one, two):
    a, b = parse_quantity(one), parse_quantity(two)
    assert (a < b) == (a.nanos < b.nanos)
    assert (a == b) == (a.nanos == b.nanos)


def test_equal_values_of_other_formats_are_equal_and_hash_alike():
    assert parse_quantity("1Gi") == parse_quantity("1024Mi") == parse_quantity("1073741824")
    assert len({parse_quantity("1Gi"), parse_quantity("1073741824")}) == 1


@given(st.lists(TEXTS, max_size=6))
def test_the_sum_is_exact_and_takes_the_format_of_the_first_item_that_is_not_zero(texts):
    items = [parse_quantity(text) for text in texts if not text.startswith("-")]
    total = parse_quantity("0Mi")
    for item in items:
        total = total.add(item)
    assert total.nanos == sum(item.nanos for item in items)
    first = next((item for item in items if item.nanos), None)
    if first is not None:
        assert total.format is first.format


def test_a_sum_of_binary_quantities_beyond_exbibytes_keeps_its_value():
    total = Quantity(1024 * 2**60 * 10**9, Format.BINARY_SI)
    assert total.canonical() == "1024Ei"
