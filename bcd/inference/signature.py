"""Signatures of exported files, with an elliptic-curve key pair and no service.

The signature is a bundle that the package model-signing writes: the file's sha256, signed with the
private key. It is beside the file, under its name with `.sig`.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bcd.config.check import first_line
from bcd.errors import BcdError, ConfigError

SUFFIX = ".sig"


def signature_of(file: Path) -> Path:
    """Where the signature of a file is."""
    return file.with_name(file.name + SUFFIX)


def check_private_key(key: Path) -> None:
    """Checks that a key can sign, before anything is computed.

    Raises:
        BcdError: The package model-signing is not installed.
        ConfigError: It is no private key, or is encrypted.
    """
    _signer(key)


def sign_data(data: bytes, private_key: Path) -> str:
    """Signs the content of a file.

    Args:
        data: The content.
        private_key: PEM, on one of the curves P-256, P-384 and P-521; not encrypted.

    Returns:
        The content of the signature's file.

    Raises:
        BcdError: The package model-signing is not installed.
        ConfigError: It is no private key, or is encrypted.
    """
    signer = _signer(private_key)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file")
        file.write_bytes(data)
        signer.sign(file, signature_of(file))
        return signature_of(file).read_text(encoding="utf-8")


def read_verified(file: Path, public_key: Path) -> bytes:
    """Reads a file and checks that it is the one that the owner of a key signed.

    What is returned is what was checked, whatever becomes of the file meanwhile.

    Args:
        file: The file; its signature is beside it (`signature_of`).
        public_key: PEM.

    Raises:
        BcdError: The package model-signing is not installed, there is no signature, it is of
            another file or by another key, or the file was changed.
        ConfigError: It is no public key.
    """
    signature = signature_of(file)
    found = []
    for needed in (file, signature):
        try:
            found.append(needed.read_bytes())
        except OSError as error:
            raise BcdError(
                f"verify={public_key}: {needed}: cannot be read ({error.strerror}): {file} is not "
                "used"
            ) from error
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        verifier = _verifier(public_key)
        copy = Path(folder, "file")
        copy.write_bytes(found[0])
        signature_of(copy).write_bytes(found[1])
        try:
            verifier.verify(copy, signature_of(copy))
        except Exception as error:
            why = first_line(error).partition(":")[0]
            raise BcdError(
                f"verify={public_key}: {signature.name} is not the signature of {file} by this "
                f"key: the file was changed, or another key signed it ({why})"
            ) from error
    return found[0]


def _signer(key: Path) -> Any:
    signing, _, _ = _package("sign", key)
    try:
        return signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception as error:
        raise _no_key("sign", key, "private", error) from error


def _verifier(key: Path) -> Any:
    _, verifying, hashing = _package("verify", key)
    try:
        found = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except Exception as error:
        raise _no_key("verify", key, "public", error) from error
    # Otherwise the signature chooses how the file is hashed.
    return found.set_hashing_config(hashing.Config().use_file_serialization())


def _no_key(option: str, key: Path, kind: str, error: Exception) -> ConfigError:
    if not key.is_file():
        return ConfigError(f"{option}={key}: no such file: give the {kind} key (PEM)")
    return ConfigError(
        f"{option}={key}: not a {kind} key that can be used; give PEM, not encrypted, on the curve "
        f"P-256, P-384 or P-521 ({first_line(error)[:120]})"
    )


def _package(option: str, key: Path) -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise BcdError(
            f"{option}={key}: needs the package model-signing ({first_line(error)}): "
            "pip install model-signing pyopenssl cryptography"
        ) from error
    return signing, verifying, hashing


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the package prints about older signatures."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
