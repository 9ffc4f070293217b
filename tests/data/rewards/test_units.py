import pytest

from aer_lightning.data.rewards.units import OTHER, Unit, read_unit


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("cm", Unit("cm")),
        ("centimeters", Unit("cm")),
        (r"\text{ cm}^2", Unit("cm", 2)),
        (r"\text{square inches}", Unit("in", 2)),
        ("cubic feet", Unit("ft", 3)),
        (r"\degree", Unit("degree")),
        ("miles per hour", Unit("mph")),
        ("million dollars", Unit("dollar", 1, 10**6)),
        (r"\text{apples}", Unit(OTHER)),
        ("people", Unit(OTHER)),
        ("units", Unit("")),
        ("centimeters long", Unit("cm")),
        ("miles per day", Unit("mi/day")),
        ("in total", Unit("")),
        (r"\text{ p.m.}", Unit("")),
        ("hours", Unit("h")),
    ],
)
def test_units(text, unit):
    assert read_unit(text) == unit


@pytest.mark.parametrize(
    "text",
    [
        "or more",
        r"\text{ or } 43",
        r"\text{not}",
        "/cm",
        "minus one",
        "times x",
        r"\text{squared}",
        "xy",
        "half",
        r"\text{at least}",
        "sin x",
        r"\text{43}",
    ],
)
def test_words_that_change_the_value_are_no_units(text):
    assert read_unit(text) is None


def test_letters_that_touch_the_number_are_variables_unless_they_are_a_unit():
    assert read_unit("apples", attached=True) is None
    assert read_unit("cm", attached=True) == Unit("cm")


def test_a_known_unit_is_neither_another_nor_any_other_word():
    assert not Unit("cm").same(Unit("m"))
    assert not Unit("cm").same(Unit("cm", 2))
    assert Unit("cm").same(Unit(""))
    assert Unit("").same(Unit(""))
    assert not Unit("cm").same(Unit(OTHER))
    assert Unit(OTHER).same(Unit(OTHER))
