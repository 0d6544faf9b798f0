"""Three digits and a unit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopart.report.quantity import column, count, digits, percent, scaled, seconds


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (digits(0), "0"),
        (digits(9.996), "10.0"),
        (digits(999.6), "1000"),
        (digits(0.01234), "0.0123"),
        (digits(41.25), "41.2"),
        (digits(12345), "12300"),
        (scaled(999.6), "1.00 k"),
        (scaled(5.93e14, "FLOP/s"), "593 TFLOP/s"),
        (scaled(0.5, "FLOP/s"), "0.500 FLOP/s"),
        (count(512), "512"),
        (count(70_553_706_496), "70.6 B"),
        (count(4 * 2**20), "4.19 M"),
        (count(9.9934), "9.99"),
        (seconds(51.234), "51.2 s"),
        (seconds(0.9999), "1.00 s"),
        (seconds(0.0398), "39.8 ms"),
        (seconds(3.1e-5), "31.0 µs"),
        (seconds(0), "0 µs"),
        (percent(0.417), "41.7 %"),
        (percent(1e-5), "< 0.1 %"),
        (percent(0), "0.0 %"),
    ],
)
def test_digits_and_units(text: str, wanted: str) -> None:
    assert text == wanted


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([], []), ([0, 0], ["0", "0"]), ([1.5, 100.2], ["2", "100"]), ([0.5, 41.26], ["0.5", "41.3"])],
)
def test_a_column_has_the_same_decimals(values: list[float], wanted: list[str]) -> None:
    assert column(values) == wanted


@given(st.floats(min_value=1e-12, max_value=1e15))
def test_digits_are_close_and_never_in_powers_of_ten(value: float) -> None:
    assert "e" not in digits(value)
    assert float(digits(value)) == pytest.approx(value, rel=0.00501)
