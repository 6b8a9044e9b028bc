"""The process's environment: cores, no telemetry, no files outside the project's own folders.

Most libraries read these variables only once, when they are imported. So this module imports
nothing heavy, and `import bcd` calls `send_nothing` before anything else.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from bcd.storage import cache_dir

# Overrides what was set before: the machines that this runs on hold images of patients.
_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime: a device id, a store of events and their upload
    "NO_ALBUMENTATIONS_UPDATE": "1",  # albumentations: asks PyPI for its version
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, when timm downloads weights
    "RAY_USAGE_STATS_ENABLED": "0",  # ray: reports of clusters
    "DO_NOT_TRACK": "1",  # several libraries respect it
}


def send_nothing() -> None:
    """Switches off the telemetry of libraries, in this process and in those that it starts."""
    os.environ.update(_OFF)
    # OpenVINO reports each import to an analytics service and has no variable to prevent it.
    # Without this package it uses a stub that does nothing.
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)


def use_own_folders() -> None:
    """Makes matplotlib keep its list of fonts in bcd's cache instead of the home folder.

    For bcd's commands, which use only the fonts that matplotlib ships: searching for system fonts
    starts `fc-list`, which writes a cache as well. A script that imports bcd keeps its settings.
    """
    os.environ.setdefault("MPL_IGNORE_SYSTEM_FONTS", "1")
    with contextlib.suppress(RuntimeError):  # a user without a home folder
        os.environ.setdefault("MPLCONFIGDIR", str(cache_dir() / "matplotlib"))


def core_count() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
