"""Secrets at rest: sealed with Fernet (AES-128-CBC and HMAC-SHA256) under ENCRYPTION_KEY."""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import text

from shared.database import Database
from shared.errors import ConfigurationError

_WRONG_KEY = "ENCRYPTION_KEY: not the key this database was made with"
_CHECK = b"hooklog"


class Cipher:
    """Seals with the first key of ENCRYPTION_KEY, opens with any of them (comma separated)."""

    def __init__(self, encryption_key: str) -> None:
        """Raises ConfigurationError, without the key."""
        keys = [part.strip() for part in encryption_key.split(",") if part.strip()]
        if not keys:
            raise ConfigurationError("ENCRYPTION_KEY: not set; 32 random bytes in URL-safe base64 are needed")
        try:
            fernets = [Fernet(key) for key in keys]
        except ValueError:
            raise ConfigurationError("ENCRYPTION_KEY: a key is 32 bytes in URL-safe base64") from None
        self._newest = fernets[0]
        self._fernet = MultiFernet(fernets)
        #: Is there a second key, which only opens?
        self.has_older_keys = len(fernets) > 1

    def seal(self, clear: bytes) -> str:
        """As text that only a holder of the key can open."""
        return self._fernet.encrypt(clear).decode()

    def open(self, sealed: str) -> bytes:
        """What was sealed. Raises ConfigurationError when none of the keys did it."""
        try:
            return self._fernet.decrypt(sealed.encode())
        except (InvalidToken, UnicodeEncodeError):
            raise ConfigurationError(_WRONG_KEY) from None

    def is_newest(self, sealed: str) -> bool:
        """Whether the first key sealed it."""
        try:
            self._newest.decrypt(sealed.encode())
        except (InvalidToken, UnicodeEncodeError):
            return False
        return True


def generate_key() -> str:
    """A fresh value for ENCRYPTION_KEY."""
    return Fernet.generate_key().decode()


def verify_key(database: Database, cipher: Cipher) -> None:
    """Is this the key that the database's secrets were sealed with? The first caller's key becomes that key.

    Raises ConfigurationError when it is not, StoreUnavailable when Postgres cannot tell.
    """
    with database.transaction() as connection:
        insert = text("insert into installation (id, key_check) values (1, :sealed) on conflict (id) do nothing")
        connection.execute(insert, {"sealed": cipher.seal(_CHECK)})
        stored = connection.execute(text("select key_check from installation where id = 1")).scalar_one()
    cipher.open(stored)
