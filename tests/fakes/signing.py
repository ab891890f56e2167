"""Keys, and models signed with them by the real OpenSSF library."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import model_signing.signing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


def make_key(folder: Path, name: str) -> Path:
    """Write `<name>.key` and `<name>.pub`, and return the path of the public one."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public = folder / f"{name}.pub"
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return public


def signature_of(files: Mapping[str, bytes], folder: Path, public: Path) -> bytes:
    """Lay *files* down in a new *folder* and sign it with the key that belongs to *public*."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    made = folder.with_suffix(".sig")
    config = model_signing.signing.Config()
    config.use_elliptic_key_signer(private_key=public.with_suffix(".key")).sign(folder, made)
    return made.read_bytes()


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return a tar.gz of *files*."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
