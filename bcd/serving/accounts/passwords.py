"""Which passwords are accepted, and how they are stored."""

from __future__ import annotations

import secrets
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from argon2.profiles import RFC_9106_LOW_MEMORY

from bcd.serving.errors import BusyError, UnprocessableError

# argon2id with 64 MiB of memory, three passes and four threads.
STRONG = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
# Stored instead of a hash for users that only a proxy logs in; no password matches it.
NO_PASSWORD = "!"
MIN_CHARACTERS = 12
MAX_BYTES = 1024

# Common passwords of at least 12 characters, or what they begin with; without case.
_COMMON = (
    "0123456789", "1234567890", "123456789a", "12345qwert", "123qwe123", "1q2w3e4r5t",
    "1qaz2wsx3edc", "abc123", "abcdefghijkl", "adminadmin", "administrator", "asdfghjkl",
    "azerty", "baseball", "bloodcancer", "changeme1234", "changemechange", "dragon123456",
    "football", "hospital1234", "iloveyou", "letmein", "letmeinplease", "leukemia1234",
    "monkey123456", "p@ssw0rd", "p@ssword", "passw0rd", "password", "princess", "qazwsxedc",
    "qwe123qwe123", "qwerty", "qwertz", "secret123456", "sunshine", "superman1234", "trustno1",
    "welcome1", "zxcvbnm",
)  # fmt: skip
_PADDING = "0123456789!?.,-_#*$@ "  # what people add at the end until it is long enough


class Passwords:
    """Hashes and checks passwords by argon2id, a few at a time.

    Who has to wait keeps a thread of the server, so only a few may wait. People who are known have
    places of their own, which strangers with made-up passwords cannot take.

    Args:
        hasher: Its parameters are those of new hashes.
        at_once: A hash takes 64 MiB of memory and four threads, so more of them have to wait.
        places: Of known people, and as many of strangers.
    """

    def __init__(self, hasher: PasswordHasher, at_once: int = 2, places: int = 8) -> None:
        self._hasher = hasher
        self._turns = threading.Semaphore(at_once)
        self._places = {known: threading.Semaphore(places) for known in (True, False)}
        self._dummy = hasher.hash(secrets.token_hex())

    @contextmanager
    def place(self, known: bool) -> Iterator[None]:
        """A place among those whose passwords are checked or wait for it.

        Args:
            known: Whether the person has logged in before.

        Raises:
            BusyError: There is none.
        """
        if not self._places[known].acquire(blocking=False):
            raise BusyError("Too many people are logging in; try again in a moment", 5)
        try:
            yield
        finally:
            self._places[known].release()

    def hash(self, password: str) -> str:
        """The hash to store.

        Raises:
            BusyError: Too many passwords are being checked.
        """
        with self.place(known=True), self._turns:
            return self._hasher.hash(normal(password))

    def check(self, password: str, hashed: str | None) -> bool:
        """Whether a password is right; called with a `place`.

        Args:
            password: As typed.
            hashed: As stored; None for an unknown user. That takes the same time, as does a user
                without a password.
        """
        typed = normal(password)
        if len(typed.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            typed = ""
        known = bool(hashed) and hashed != NO_PASSWORD
        compared = hashed if hashed and known else self._dummy
        with self._turns:
            try:
                return self._hasher.verify(compared, typed) and known
            except (Argon2Error, InvalidHashError, UnicodeError):
                return False

    def outdated(self, hashed: str) -> bool:
        """Whether a hash has other parameters than new ones."""
        return self._hasher.check_needs_rehash(hashed)


def normal(password: str) -> str:
    """The same text however the keyboard composed it (NFKC)."""
    return unicodedata.normalize("NFKC", password)


def check_policy(password: str, name: str) -> None:
    """Refuses passwords that are easily guessed.

    Raises:
        UnprocessableError: It is too short, too long, the name, or a common one.
    """
    typed = normal(password)
    if len(typed) < MIN_CHARACTERS:
        raise UnprocessableError(f"A password has at least {MIN_CHARACTERS} characters")
    try:
        size = len(typed.encode())
    except UnicodeError as error:
        raise UnprocessableError("The password is not valid text") from error
    if size > MAX_BYTES:
        raise UnprocessableError(f"A password has at most {MAX_BYTES} bytes")
    plain = typed.casefold()
    if name and plain.strip(_PADDING) == name.casefold().strip(_PADDING):
        raise UnprocessableError("The password is the user's name; choose another one")
    if len(set(plain)) < 5 or _common(plain):
        raise UnprocessableError("This password is one of the most common; choose another one")


def _common(plain: str) -> bool:
    """Whether it is a common password, also repeated or with digits at the end."""
    for word in _COMMON:
        if plain == word:
            return True
        if plain.startswith(word):
            rest = plain[len(word) :]
            if not rest.replace(word, "").strip(_PADDING):
                return True
    return False
