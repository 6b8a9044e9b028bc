"""Which attributes of DICOM files are kept (`dicom.keep`)."""

from __future__ import annotations

from collections.abc import Sequence

from bcd.config.check import nearest
from bcd.errors import BcdError, ConfigError

# What has no text to keep: bytes, pixels, and sequences of further attributes.
_NO_TEXT = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UN")


def check_keep(keywords: Sequence[str], key: str = "dicom.keep") -> None:
    """Refuses keywords of attributes that cannot be kept.

    Args:
        keywords: As configured.
        key: Of the configuration.

    Raises:
        BcdError: pydicom, which knows the keywords, is not installed.
        ConfigError: A keyword is unknown, there twice, or its attribute has no text.
    """
    if not keywords:
        return
    try:
        from pydicom import datadict
    except ModuleNotFoundError:
        raise BcdError(f"{key}: pydicom is not installed: pip install 'bcd[dicom]'") from None
    names = {entry[4] for entry in datadict.DicomDictionary.values() if entry[4]}  # type: ignore[attr-defined]
    for keyword in keywords:
        if keyword not in names:
            raise ConfigError(
                f"{key}={keyword}: no keyword of a DICOM attribute{nearest(keyword, names)}"
            )
        if set(datadict.dictionary_VR(keyword).split(" or ")) & set(_NO_TEXT):
            raise ConfigError(f"{key}={keyword}: cannot be kept, as it has no text of its own")
    if len(set(keywords)) < len(keywords):
        raise ConfigError(f"{key}: has the same keyword twice")
