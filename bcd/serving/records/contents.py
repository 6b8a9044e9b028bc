"""The bytes of images: kept in the database, encrypted or not, or only in memory."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

from sqlalchemy import Connection, Engine, select

from bcd.config.serve import ImagesConfig
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.predictions import UNREADABLE
from bcd.serving.answers import ImageAnswer
from bcd.serving.errors import UnavailableError
from bcd.serving.records.tables import IMAGE_CONTENTS, JOBS

_KEY_BYTES = 32  # AES-256
_NONCE_BYTES = 12


class Key:
    """A key that encrypts images with AES-GCM.

    Args:
        secret: 32 bytes.

    Attributes:
        id: Tells keys apart and says nothing about the key.
    """

    def __init__(self, secret: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(secret)
        self.id = hashlib.sha256(b"bcd image key" + secret).hexdigest()[:16]

    def encrypt(self, image_id: str, data: bytes) -> bytes:
        """Encrypts an image, which can be decrypted under its id only."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, image_id.encode())

    def decrypt(self, image_id: str, stored: bytes) -> bytes:
        """Decrypts an image.

        Raises:
            UnavailableError: It was changed, or is another image.
        """
        from cryptography.exceptions import InvalidTag

        nonce, rest = stored[:_NONCE_BYTES], stored[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, rest, image_id.encode())
        except InvalidTag:
            raise UnavailableError("The image was changed in the database.") from None


def make_key(file: Path) -> None:
    """Writes a new random key, readable by its owner only.

    Raises:
        BcdError: The file exists already.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise BcdError(f"{file}: exists already: give another file") from None
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(_KEY_BYTES) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_key(file: str) -> Key:
    """Reads a key.

    Raises:
        ConfigError: It cannot be read, is no key, or others than its owner can read it.
    """
    try:
        text = Path(file).read_text("ascii").strip()
        secret = bytes.fromhex(text)
        others = Path(file).stat().st_mode & 0o077
    except OSError as error:
        raise ConfigError(
            f"images.key_file={file}: {error.strerror}: bcd serve key {file} makes one"
        ) from None
    except ValueError:
        secret, others = b"", 0
    if len(secret) != _KEY_BYTES:
        raise ConfigError(f"images.key_file={file}: no key: bcd serve key <file> makes one")
    if others and os.name == "posix":
        raise ConfigError(f"images.key_file={file}: others can read it: chmod 600 {file}")
    return Key(secret)


class Contents:
    """The bytes of images.

    Args:
        engine: The database, for a check that the kept images can be read.
        cfg: What becomes of images; None for commands, which add and read none.

    Raises:
        BcdError: Images are kept that the key does not decrypt.
        ConfigError: The key cannot be read.
    """

    def __init__(self, engine: Engine, cfg: ImagesConfig | None) -> None:
        self._memory: OrderedDict[str, bytes] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()
        self._key: Key | None = None
        self.keep, self._room = False, 0
        if cfg is None:
            return
        self.keep = cfg.keep
        self._key = read_key(cfg.key_file) if cfg.key_file is not None else None
        self._room = int(cfg.memory_mb * 1e6)
        with engine.connect() as connection:
            found = set(connection.scalars(select(IMAGE_CONTENTS.c.key_id).distinct()))
            found |= set(connection.scalars(select(JOBS.c.key_id).distinct()))
        self._check_keys(found - {""}, cfg.key_file)

    def _check_keys(self, found: set[str], file: str | None) -> None:
        other = found - {self._key.id if self._key else ""}
        if other and self._key is None:
            raise BcdError("images.key_file=null: kept images are encrypted: give the key's file")
        if other:
            raise BcdError(
                f"images.key_file={file}: kept images are encrypted with another key: give that one"
            )

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Ids of the keys of images that can be read; empty for those that are not encrypted."""
        return ("",) if self._key is None else ("", self._key.id)

    def keeps(self, answer: ImageAnswer) -> bool:
        """Whether an image is kept in the database.

        What cannot be read as an image is not: nobody can look at it, and it may be something else,
        such as a damaged DICOM file with the patient's name.
        """
        return self.keep and UNREADABLE not in answer.reasons

    def stored(self, image_id: str, data: bytes) -> tuple[str, bytes]:
        """What is written to the database: the id of the key, empty without one, and bytes."""
        if self._key is None:
            return "", data
        return self._key.id, self._key.encrypt(image_id, data)

    def remember(self, image_id: str, data: bytes, answer: ImageAnswer) -> None:
        """Holds an image that is not kept in memory, until others need the room; see `keeps`."""
        if self.keep or UNREADABLE in answer.reasons or len(data) > self._room:
            return
        with self._lock:
            self._used += len(data) - len(self._memory.pop(image_id, b""))
            self._memory[image_id] = data
            while self._used > self._room:
                self._used -= len(self._memory.popitem(last=False)[1])

    def forget(self, image_ids: list[str]) -> None:
        """Removes images from memory."""
        with self._lock:
            for image_id in image_ids:
                self._used -= len(self._memory.pop(image_id, b""))

    def read(self, connection: Connection, image_id: str, sha256: str | None) -> bytes | None:
        """The bytes of an image; None if it is not kept and no longer in memory.

        Args:
            connection: To the database.
            image_id: Of the image.
            sha256: Of what is stored in the database, as the chain says.

        Raises:
            UnavailableError: It was changed, or cannot be decrypted.
        """
        with self._lock:
            if image_id in self._memory:
                self._memory.move_to_end(image_id)
                return self._memory[image_id]
        table = IMAGE_CONTENTS.c
        query = select(table.key_id, table.stored).where(table.image_id == image_id)
        row = connection.execute(query).one_or_none()
        if row is None:
            return None
        key_id, stored = row
        if hashlib.sha256(stored).hexdigest() != sha256:
            raise UnavailableError("The image was changed in the database.")
        return self.opened(image_id, key_id, bytes(stored))

    def opened(self, image_id: str, key_id: str, stored: bytes) -> bytes:
        """The bytes of an image of which `stored` has made these.

        Raises:
            UnavailableError: They were changed, or are encrypted with another key.
        """
        if not key_id:
            return stored
        if self._key is None or self._key.id != key_id:
            raise UnavailableError("The image is encrypted with another key.")
        return self._key.decrypt(image_id, stored)
