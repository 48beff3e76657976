"""Reads and writes the keys that sign checkpoints, as PEM files."""

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.failures import Failure

PRIVATE, PUBLIC = "checkpoint.key", "checkpoint.pub"


class KeyFileError(Failure):
    """A key file cannot be used. The text says why, and what to do."""


def read_private_key(file: Path) -> Ed25519PrivateKey:
    """Reads the private key that signs. Raises KeyFileError."""
    try:
        key = serialization.load_pem_private_key(_read(file), password=None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{file} is no private key in PEM without a password: {error}.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{file} is no Ed25519 key. `resolution checkpoints key DIR` makes one.")
    return key


def read_public_key(file: Path) -> Ed25519PublicKey:
    """Reads a public key. Raises KeyFileError."""
    try:
        key = serialization.load_pem_public_key(_read(file))
    except ValueError:
        raise KeyFileError(f"{file} is no public key in PEM; take the file that ends in .pub.") from None
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{file} is no Ed25519 key. `resolution checkpoints key DIR` makes one.")
    return key


def write_key_pair(folder: Path) -> tuple[Path, Path]:
    """Makes a key pair. Returns the private key's file and the public key's. Raises KeyFileError if either exists."""
    private, public = folder / PRIVATE, folder / PUBLIC
    for file in (private, public):
        if file.exists():
            raise KeyFileError(f"{file} exists; it is not replaced. Name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        key = Ed25519PrivateKey.generate()
        _create(private, _pem(key))
        _create(public, _public_pem(key))
    except OSError as error:
        raise KeyFileError(f"The key cannot be written to {folder}: {error.strerror}.") from None
    return private, public


def own_key(folder: Path) -> Path:
    """Returns the private key's file of a development installation. The first call makes the key pair.

    Safe to call in two processes at once.
    """
    private, public = folder / PRIVATE, folder / PUBLIC
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        _create(private, _pem(Ed25519PrivateKey.generate()))
    with suppress(FileExistsError):
        _create(public, _public_pem(read_private_key(private)))
    return private


def _create(file: Path, content: bytes) -> None:
    """Creates a file that only its owner may read, in one step, with all its content. Raises FileExistsError."""
    new = file.with_name(f".{file.name}-{uuid4().hex}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(content)
        os.link(new, file)
    finally:
        new.unlink(missing_ok=True)


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{file} cannot be read: {error.strerror}.") from None
