"""Classes whose objects only a factory can make.

Such an object stands for something that a runtime owns: device memory, a stream, a ticket. Calling
its class could only make a broken one, so that raises a `TypeError` that names the factory. The
package itself makes them with `FactoryMade.make`.
"""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

__all__ = ["FactoryMade"]

T = TypeVar("T")


class FactoryMade(type):
    """Metaclass of classes that are never called by users.

    ``class Stream(metaclass=FactoryMade, factory="device.create_stream()")``. A subclass that names
    no factory has that of its base.
    """

    _factory: str

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        factory: str = "",
    ) -> FactoryMade:
        """Make the class.

        Args:
            name: Of the class.
            bases: Of the class.
            namespace: Of the class.
            factory: What users call instead, such as ``device.create_stream()``.
        """
        namespace.setdefault("__reduce_ex__", _refuse_copy)
        made = super().__new__(cls, name, bases, namespace)
        if factory:
            made._factory = factory
        return made

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, factory: str = ""
    ) -> None:
        del factory
        super().__init__(name, bases, namespace)

    def __call__(cls, *_: object, **__: object) -> NoReturn:
        """Refuse.

        Raises:
            TypeError: Always; it names the factory.
        """
        raise TypeError(f"ajit.{cls.__name__} is not made by hand: get it from {cls._factory}")

    def make(cls: type[T], *args: Any, **kwargs: Any) -> T:
        """Make an object. For the package only."""
        made: T = type.__call__(cls, *args, **kwargs)
        return made


def _refuse_copy(self: object, _: object) -> NoReturn:
    """What `copy`, `deepcopy` and `pickle` ask for: a second owner of what the object stands for.

    Raises:
        TypeError: Always.
    """
    raise TypeError(
        f"a {type(self).__name__} cannot be copied or pickled: it stands for something of a runtime"
    )
