"""A DICOM system that sends objects to the node."""

from __future__ import annotations

import io
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.helpers.dicom import make_dicom
from tests.serving.making import smear

SENDER = "SCANNER1"


def pixels_of(number: int) -> NDArray[np.uint8]:
    """A drawn smear, RGB."""
    return np.asarray(Image.open(io.BytesIO(smear(number))).convert("RGB"))


def made(number: int, study: str = "1.2.3", **options: Any) -> Dataset:
    """A drawn smear as an object of a study; always the same for the same number."""

    def change(dataset: Dataset) -> None:
        dataset.StudyInstanceUID = study
        dataset.SOPInstanceUID = f"{study}.1.{number}"

    return read(make_dicom(pixels_of(number), change=change, **options).data)


def read(data: bytes) -> Dataset:
    """The object in a file."""
    return dcmread(io.BytesIO(data))


@contextmanager
def association(
    node: str,
    objects: Sequence[Dataset],
    sender: str = SENDER,
    called: str = "",
    tls: ssl.SSLContext | None = None,
) -> Iterator[Any]:
    """An association, which may have been refused.

    Args:
        node: AE title, address and port.
        objects: What will be sent.
        sender: AE title of the sender.
        called: Another AE title than the node's; empty for that.
        tls: Of the sender's side; None for none.
    """
    title, _, address = node.partition("@")
    host, _, port = address.rpartition(":")
    entity = AE(sender)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 60
    entity.add_requested_context(Verification)
    for kind, syntax in {(one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in objects}:
        entity.add_requested_context(kind, syntax)
    secured = None if tls is None else (tls, host)
    made = entity.associate(host, int(port), ae_title=called or title, tls_args=secured)
    try:
        yield made
    finally:
        if made.is_established:
            made.release()


def send(
    node: str, *objects: Dataset, sender: str = SENDER, tls: ssl.SSLContext | None = None
) -> list[int | None]:
    """The status of each object; None if there was no reply."""
    with association(node, objects, sender, tls=tls) as made:
        if not made.is_established:
            return [None] * len(objects)
        statuses: list[int | None] = []
        for one in objects:
            if not made.is_established:
                statuses.append(None)
                continue
            statuses.append(made.send_c_store(one).get("Status"))
        return statuses
