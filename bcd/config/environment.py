"""The process's environment: nothing is sent, and nothing is written where nobody looks for it.

It must be settled before the libraries are imported, as most of them read it then and never again;
so this module imports nothing heavy, and `import bcd` runs `send_nothing` before anything else.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from bcd.storage import cache_dir

# Whatever was set before: images of patients lie on the machines that this runs on.
_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime: a device id, a store of events and their upload
    "NO_ALBUMENTATIONS_UPDATE": "1",  # albumentations: asks PyPI for its version
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, when timm downloads weights
    "DO_NOT_TRACK": "1",  # what several libraries heed
}


def send_nothing() -> None:
    """Switches off what libraries send of their own accord, here and in the processes started."""
    os.environ.update(_OFF)
    # OpenVINO reports each import to an analytics service and heeds no variable; without this
    # package it takes a stub that does nothing.
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)


def use_own_folders() -> None:
    """Has matplotlib keep its list of fonts in bcd's cache, not in the home folder.

    For bcd's programs, which draw with the fonts that matplotlib brings: looking for others starts
    `fc-list`, which writes a cache as well. A script that imports bcd keeps its own settings.
    """
    os.environ.setdefault("MPL_IGNORE_SYSTEM_FONTS", "1")
    with contextlib.suppress(RuntimeError):  # a user without a home folder
        os.environ.setdefault("MPLCONFIGDIR", str(cache_dir() / "matplotlib"))
