"""Maps the class names of another site to a model's classes, to `benign` or to `malignant`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bcd.data.layouts import canonical_name
from bcd.errors import BcdError, ConfigError

# What a name can be mapped to besides the model's classes.
BENIGN, MALIGNANT = "benign", "malignant"


@dataclass(frozen=True)
class ClassMap:
    """What the user said about the class names of a site.

    Attributes:
        given: Class of the model, `benign`, `malignant` or None (left out) by the site's name; a
            text is the class of every name.
        key: The setting, for error messages.
        strict: Whether a name that the site does not have is an error.
    """

    given: Mapping[str, str | None] | str = field(default_factory=dict)
    key: str = "data.map"
    strict: bool = True

    def resolve(
        self, names: Sequence[str], classes: Sequence[str], benign: int | None, root: Path
    ) -> dict[str, str | None]:
        """Finds the class of each name of a site.

        A name that is not given and is one of the model's classes is that class.

        Args:
            names: Class names of the site, as `list_entries` finds them.
            classes: Class names of the model.
            benign: Index of the model's benign class; None if it has none.
            root: The site's images, for error messages.

        Returns:
            By name: a class of the model, `MALIGNANT` if it can be any class but the benign one,
            or None if images of that name are left out.

        Raises:
            ConfigError: A name or a class does not exist, or the model has no benign class.
            BcdError: A name has no class, or all are left out.
        """
        found: dict[str, str | None] = {}
        for name, value in self._by_name(names).items():
            known = self._find(name, names, root)
            if known is None:
                continue
            if known in found:
                raise ConfigError(f"{self.key}: gives the class of '{known}' twice")
            found[known] = self._class_of(name, value, classes, benign)
        unknown = [name for name in names if name not in found and name not in classes]
        if unknown:
            raise BcdError(self._unmapped(unknown, classes, benign, root))
        found = {name: found.get(name, name) for name in names}
        if not any(found.values()):
            raise BcdError(f"{self.key}: leaves out every class of {root}")
        return found

    def _by_name(self, names: Sequence[str]) -> Mapping[str, str | None]:
        return dict.fromkeys(names, self.given) if isinstance(self.given, str) else self.given

    def _find(self, name: str, names: Sequence[str], root: Path) -> str | None:
        """The site's name that a typed one means; None if it has none and this is no error."""
        from bcd.config.check import nearest

        own = {_plain(one): one for one in names}
        known = own.get(_plain(name)) or own.get(_plain(canonical_name(name) or ""))
        if known is None and self.strict:
            raise ConfigError(
                f"{self.key}: {root} has no class '{name}'; its classes are {', '.join(names)}"
                f"{nearest(name, names)}"
            )
        return known

    def _class_of(
        self, name: str, value: str | None, classes: Sequence[str], benign: int | None
    ) -> str | None:
        if value is None or value in classes:
            return value
        plain = _plain(value)
        if plain in (BENIGN, MALIGNANT):
            if benign is None:
                raise ConfigError(
                    f"{self.key}: '{name}' is {plain}, but the model has no benign class "
                    f"(data.benign=null in training): give one of {', '.join(classes)}, or null"
                )
            others = [one for index, one in enumerate(classes) if index != benign]
            if plain == BENIGN:
                return classes[benign]
            return others[0] if len(others) == 1 else MALIGNANT
        same = canonical_name(value)
        if same in classes:
            return same
        from bcd.config.check import nearest

        choices = [*classes, BENIGN, MALIGNANT]
        raise ConfigError(
            f"{self.key}: '{name}' is '{value}', which is none of {', '.join(choices)}"
            f"{nearest(value, choices)}"
        )

    def _unmapped(
        self, unknown: Sequence[str], classes: Sequence[str], benign: int | None, root: Path
    ) -> str:
        several = len(unknown) > 1
        listed = " and ".join(f"'{name}'" for name in unknown)
        blanks = ", ".join(f"{_escaped(name)}: ?" for name in unknown)
        words = "" if benign is None else f"{BENIGN}, {MALIGNANT}, "
        return (
            f"{root} has the {'classes' if several else 'class'} {listed}, but the model knows "
            f"only {', '.join(classes)}: give {self.key}='{{{blanks}}}', with {words}one of these "
            "classes, or null to leave images out, for each ?"
        )


def _escaped(name: str) -> str:
    """A name with a backslash before each character that Hydra would read as its own."""
    return re.sub(r"([\\()\[\]{}:=,])", r"\\\1", name)


def _plain(name: str) -> str:
    """A name without differences of case, spacing and the encoding of accents."""
    return " ".join(unicodedata.normalize("NFC", str(name)).casefold().split())
