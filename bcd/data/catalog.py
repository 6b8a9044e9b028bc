"""The catalog: which pictures there are, of which class, and which files were turned away."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Picture:
    """A usable picture.

    Attributes:
        path: Relative to the catalog's root, with forward slashes.
        label: Index into the catalog's classes.
        sha256: Of the file's bytes.
        width: In pixels.
        height: In pixels.
        group: Slide or patient; empty where unknown.
        subset: Subset named by a CSV; empty where none is.
    """

    path: str
    label: int
    sha256: str
    width: int
    height: int
    group: str = ""
    subset: str = ""


@dataclass(frozen=True)
class Rejected:
    """A file that was turned away: its path relative to the root, its class and the reason."""

    path: str
    class_name: str
    reason: str


@dataclass(frozen=True)
class Catalog:
    """All that is known about the pictures of one data root.

    Attributes:
        root: Folder that the paths are relative to.
        classes: Class names; a picture's label is an index into them.
        benign: Index of the class that is not cancer, None where no class is.
        pictures: Usable pictures, sorted by path.
        rejected: Files that were turned away.
        checked: How it is known that the files are what is remembered of them.
    """

    root: Path
    classes: tuple[str, ...]
    benign: int | None
    pictures: tuple[Picture, ...]
    rejected: tuple[Rejected, ...]
    checked: str = field(default="", compare=False)

    @property
    def labels(self) -> list[int]:
        """Label of each picture."""
        return [picture.label for picture in self.pictures]

    def counts(self) -> dict[str, int]:
        """Number of usable pictures of each class."""
        found = Counter(self.labels)
        return {name: found[i] for i, name in enumerate(self.classes)}

    def fingerprint(self, indices: Iterable[int] | None = None) -> str:
        """sha256 over the pictures' hashes and classes; changes when any picture does.

        Args:
            indices: Of the pictures that it is about; None for all.
        """
        asked = self.pictures if indices is None else [self.pictures[i] for i in indices]
        lines = sorted(f"{p.sha256} {self.classes[p.label]}" for p in asked)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def identity(self) -> dict[str, str]:
        """Which pictures these are and how that is known, as `run.json` has it."""
        return {
            "root": str(self.root),
            "fingerprint": self.fingerprint(),
            "checked": self.checked,
        }
