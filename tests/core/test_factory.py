"""Classes whose objects only a factory can make."""

from __future__ import annotations

import pytest

from ajit._core.factory import FactoryMade


class Made(metaclass=FactoryMade, factory="thing.make()"):
    """Something that a factory makes."""

    def __init__(self, value: int) -> None:
        self.value = value


class Special(Made):
    """A kind of it, from the same factory."""


@pytest.mark.parametrize("kind", [Made, Special])
def test_calling_the_class_names_the_factory(kind):
    """A caller of the class is told where to get an object instead."""
    with pytest.raises(TypeError) as caught:
        kind(1)

    assert (
        str(caught.value) == f"ajit.{kind.__name__} is not made by hand: get it from thing.make()"
    )


@pytest.mark.parametrize("kind", [Made, Special])
def test_the_package_makes_objects(kind):
    """The package makes an object with what its constructor takes."""
    made = kind.make(3)

    assert type(made) is kind
    assert made.value == 3
