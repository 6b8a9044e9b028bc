"""Which attributes of DICOM files may be kept."""

from __future__ import annotations

from collections.abc import Sequence

from bcd.config.check import nearest
from bcd.errors import BcdError, ConfigError

# Values that are no text: sequences, and bytes and numbers of any length.
_NO_TEXT = {"SQ", "OB", "OD", "OF", "OL", "OV", "OW", "UN", "NONE"}
_FIRST = 0x00080000  # tag of a data set: before are those of files and messages


def check_keep(keep: Sequence[str], key: str = "dicom.keep") -> tuple[str, ...]:
    """Checks keywords of attributes to keep.

    Args:
        keep: Keywords, such as `PatientID`.
        key: The setting that they were given in.

    Returns:
        The keywords, each once.

    Raises:
        BcdError: pydicom, which knows the keywords, is not installed.
        ConfigError: There is no such attribute, or its value is no text.
    """
    if not keep:
        return ()
    try:
        from pydicom.datadict import dictionary_VR, keyword_dict
    except ImportError as error:
        raise BcdError(f"{key}: DICOM needs a package: pip install 'bcd[dicom]'") from error
    for keyword in keep:
        if not keyword or keyword not in keyword_dict:
            raise ConfigError(
                f"{key}={keyword}: no such attribute of DICOM{nearest(keyword, keyword_dict)}"
            )
        kinds = set(dictionary_VR(keyword).split(" or "))
        if kinds & _NO_TEXT or keyword_dict[keyword] < _FIRST:
            raise ConfigError(f"{key}={keyword}: its value is no text, and cannot be kept")
    return tuple(dict.fromkeys(keep))
