"""Numbers as spreadsheets show them; every case can be checked by typing it into one."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest.parse.cellformat import BUILT_IN, shown


@pytest.mark.parametrize(
    ("raw", "code", "text"),
    [
        ("0.30000000000000004", "", "0.3"),
        ("12345678901234567890", "", "12345678901234567890"),
        ("1E-7", "General", "1E-07"),
        ("5", 'General" kg"', "5 kg"),
        ("-3", 'General;"minus "General', "minus 3"),
        ("1234567", "#,##0", "1,234,567"),
        ("12", "#,##0", "12"),
        ("0", "#,##0", "0"),
        ("1234.5", "#,##0.00", "1,234.50"),
        ("-1234.5", "#,##0.00_);(#,##0.00)", "(1,234.50)"),
        ("-5", "0.00", "-5.00"),
        ("-0.001", "0.00", "0.00"),
        ("0.455", "0.0%", "45.5%"),
        ("1234.5", "[$€-407] #,##0.00", "€ 1,234.50"),
        ("1234.5", "[Red]$#,##0", "$1,234"),
        ("42", "00000", "00042"),
        ("5551234567", "(000) 000-0000", "(555) 123-4567"),
        ("1234567", "#,##0,", "1,235"),
        ("0", '0;-0;"nil"', "nil"),
        ("12345", "0.00E+00", "1.23E+04"),
        ("0.00012", "0.0E-0", "1.2E-4"),
        ("0.5", "0.##", "0.5"),
        ("3", "0.##", "3"),
        ("1.5", "# ?/?", "1.5"),
        ("45000", "m/d/yyyy", "2023-03-15"),
        ("45000.5", "dd/mm/yyyy hh:mm", "2023-03-15 12:00"),
        ("45000.9999999", "yyyy-mm-dd", "2023-03-16"),
        ("45000", "mmm-yy", "2023-03"),
        ("45000", "yyyy", "2023"),
        ("0.75", "h:mm AM/PM", "18:00"),
        ("1.5", "[h]:mm", "36:00"),
        ("61", "yyyy-mm-dd", "1900-03-01"),
        ("1", "d", "1900-01-01"),
        ("-1", "yyyy-mm-dd", "-1"),
        ("3000000", "yyyy", "3000000"),
        ("x", "0", "x"),
        ("nan", "0", "nan"),
        ("1e400", "0", "1e400"),
    ],
)
def test_golden(raw, code, text):
    assert shown(raw, code) == text


def test_dates_from_1904():
    assert shown("0", "yyyy-mm-dd", from_1904=True) == "1904-01-01"
    assert shown("43538", BUILT_IN[14], from_1904=True) == shown("45000", BUILT_IN[14]) == "2023-03-15"


CODES = st.lists(
    st.sampled_from([*'0#?,.%;@_*\\"[]EeyMdhs/-+() ', "General", "[h]", "[Red]", "E+00", "AM/PM", '"a"', "€", "#,##0"]),
    max_size=15,
).map("".join)


@settings(max_examples=500, deadline=None)
@given(raw=st.one_of(st.floats().map(repr), st.integers().map(str), st.text(max_size=5)), code=CODES)
@example(raw="1e308", code="#,##0.00")
@example(raw="-0.0", code="0;(0);z")
def test_any_format_shows_something_bounded(raw, code):
    assert len(shown(raw, code)) < 3_000
