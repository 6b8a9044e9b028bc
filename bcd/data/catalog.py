"""The catalog: which images there are, of which class, and which files were rejected."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bcd.data.workspace import Workspace


@dataclass(frozen=True)
class ImageRecord:
    """A usable image.

    Attributes:
        path: Relative to the catalog's root, with forward slashes; of a picture in a DICOM file of
            several `<file>#<number>`.
        label: Index into the catalog's classes.
        sha256: Of the file's bytes; of a picture in a file of several as
            `bcd.data.frames.picture_sha256` makes it.
        width: In pixels.
        height: In pixels.
        group: Slide or patient; the file, if nothing else is known of a picture in a file of
            several; empty if unknown.
        subset: Subset from a CSV; empty if there is none.
        site: Hospital or laboratory from a CSV; empty if there is none.
        frame: Number of the picture in a file of several, from 1 on; None for the only one.
        alias_of: Of such a picture, the path of its file that was listed first; empty if its own
            path has that one.
    """

    path: str
    label: int
    sha256: str
    width: int
    height: int
    group: str = ""
    subset: str = ""
    site: str = ""
    frame: int | None = None
    alias_of: str = ""

    @property
    def file(self) -> str:
        """Path of its file, which is its own unless the file has several pictures.

        It is the same for all pictures of a file, whatever their paths are.
        """
        own = self.path if self.frame is None else self.path.removesuffix(f"#{self.frame}")
        return self.alias_of or own

    @property
    def given_group(self) -> str:
        """The group that somebody gave; empty if there is none, or it is only the file."""
        return "" if self.frame is not None and self.group == self.file else self.group


@dataclass(frozen=True)
class Rejected:
    """A file that was rejected: its path relative to the root, its class and the reason."""

    path: str
    class_name: str
    reason: str


@dataclass(frozen=True)
class Catalog:
    """The images of one data root.

    Attributes:
        root: Folder that the paths are relative to.
        classes: Class names; an image's label is an index into them.
        benign: Index of the class that is not cancer, None if there is no such class.
        images: Usable images, sorted by path; pictures of a file by their number.
        rejected: Files that were rejected.
        checked: How it is known that the files are those that the cache describes.
        kept: What the scan computed of the images that it read; None if it kept nothing.
    """

    root: Path
    classes: tuple[str, ...]
    benign: int | None
    images: tuple[ImageRecord, ...]
    rejected: tuple[Rejected, ...]
    checked: str = field(default="", compare=False)
    kept: Workspace | None = field(default=None, compare=False, repr=False)

    @property
    def labels(self) -> list[int]:
        """Label of each image."""
        return [image.label for image in self.images]

    def counts(self) -> dict[str, int]:
        """Number of usable images of each class."""
        found = Counter(self.labels)
        return {name: found[i] for i, name in enumerate(self.classes)}

    def fingerprint(self, indices: Iterable[int] | None = None) -> str:
        """sha256 over the images' hashes and classes; changes when any image does.

        Args:
            indices: Of the images to include; None for all.
        """
        asked = self.images if indices is None else [self.images[i] for i in indices]
        lines = sorted(f"{p.sha256} {self.classes[p.label]}" for p in asked)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def by_site(self) -> dict[str, Catalog]:
        """The images of each site, in the order of their names; one entry if no site is known."""
        sites = sorted({image.site for image in self.images})
        return {
            site: replace(self, images=tuple(p for p in self.images if p.site == site))
            for site in sites
        }

    def identity(self) -> dict[str, str]:
        """Which images these are and how that is known, as written to `run.json`."""
        return {
            "root": str(self.root),
            "fingerprint": self.fingerprint(),
            "checked": self.checked,
        }
