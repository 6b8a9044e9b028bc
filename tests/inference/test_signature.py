import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bcd.errors import BcdError, ConfigError
from bcd.inference.signature import check_private_key, read_verified, sign_data, signature_of

CONTENT = b"graph" * 1000 + b"metadata"


def write_pair(folder: Path, curve: ec.EllipticCurve | None = None) -> tuple[Path, Path]:
    """A private and a public key as openssl writes them."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path]:
    """A signed file, and the public key."""
    private, public = write_pair(tmp_path / "keys")
    file = tmp_path / "model.onnx"
    file.write_bytes(CONTENT)
    signature_of(file).write_text(sign_data(CONTENT, private))
    assert read_verified(file, public) == CONTENT
    return file, public


def refusal(file: Path, public: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(BcdError) as caught:
        read_verified(file, public)
    told = str(caught.value)
    assert "\n" not in told
    assert told.startswith(f"verify={public}: ")
    return told


@pytest.mark.parametrize("place", [0, -1])
def test_a_changed_byte_of_graph_or_metadata_is_refused(
    signed: tuple[Path, Path], place: int
) -> None:
    file, public = signed
    changed = bytearray(CONTENT)
    changed[place] ^= 1
    file.write_bytes(changed)
    assert "the file was changed" in refusal(file, public)


def test_a_longer_and_a_shorter_file_are_refused(signed: tuple[Path, Path]) -> None:
    file, public = signed
    for content in (CONTENT + b"\0", CONTENT[:-1], b""):
        file.write_bytes(content)
        refusal(file, public)


def test_a_missing_a_foreign_and_a_broken_signature_are_refused(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    file, public = signed
    good = signature_of(file).read_text()
    foreign = sign_data(b"another file", tmp_path / "keys" / "private.pem")
    bundle = json.loads(good)
    for name, text in (("foreign", foreign), ("broken", good[:-9]), ("empty", ""), ("list", "[]")):
        signature_of(file).write_text(text)
        assert signature_of(file).name in refusal(file, public), name
    unsigned = {**bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], "signatures": []}}
    signature_of(file).write_text(json.dumps(unsigned))
    refusal(file, public)
    signature_of(file).unlink()
    assert f"{signature_of(file)}: cannot be read (No such file" in refusal(file, public)


def test_a_changed_statement_is_refused(signed: tuple[Path, Path], tmp_path: Path) -> None:
    """The hash of another file, under the signature of this one."""
    file, public = signed
    other = json.loads(sign_data(b"another file", tmp_path / "keys" / "private.pem"))
    bundle = json.loads(signature_of(file).read_text())
    bundle["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    assert b"sha256" in base64.b64decode(bundle["dsseEnvelope"]["payload"])
    signature_of(file).write_text(json.dumps(bundle))
    file.write_bytes(b"another file")
    refusal(file, public)


def test_another_key_is_refused_also_where_the_signature_does_not_name_it(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    file, public = signed
    _, other = write_pair(tmp_path / "other")
    _, longer = write_pair(tmp_path / "longer", ec.SECP384R1())
    bundle = json.loads(signature_of(file).read_text())
    for _ in ("with its hint", "without"):
        for key in (other, longer):
            assert "another key signed it" in refusal(file, key)
        bundle["verificationMaterial"]["publicKey"] = {}
        signature_of(file).write_text(json.dumps(bundle))
    read_verified(file, public)


def test_only_the_file_itself_counts(signed: tuple[Path, Path], tmp_path: Path) -> None:
    file, public = signed
    (tmp_path / "beside.onnx").write_bytes(b"unsigned")
    read_verified(file, public)
    renamed = file.rename(tmp_path / "renamed.onnx")
    signature_of(file).rename(signature_of(renamed))
    read_verified(renamed, public)
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    os.link(renamed, folder / "renamed.onnx")
    signature_of(folder).write_text(signature_of(renamed).read_text())
    assert "cannot be read" in refusal(folder, public)


def test_a_link_is_what_it_leads_to(signed: tuple[Path, Path], tmp_path: Path) -> None:
    file, public = signed
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "model.onnx"
    link.symlink_to(file)
    signature_of(link).symlink_to(signature_of(file))
    read_verified(link, public)
    link.unlink()
    (tmp_path / "changed.onnx").write_bytes(CONTENT + b"x")
    link.symlink_to(tmp_path / "changed.onnx")
    refusal(link, public)


def test_what_is_no_key_is_refused_before_anything_is_done(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    file, public = signed
    private = tmp_path / "keys" / "private.pem"
    curve = write_pair(tmp_path / "curve", ec.SECP256K1())
    text = tmp_path / "text.pem"
    text.write_text("no key")
    encrypted = tmp_path / "encrypted.pem"
    loaded = serialization.load_pem_private_key(private.read_bytes(), None)
    encrypted.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    check_private_key(private)
    for key in (public, text, encrypted, curve[0], tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=r"not a private key|no such file") as caught:
            check_private_key(key)
        assert "\n" not in str(caught.value)
    for key in (private, text, curve[1], tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=r"not a public key|no such file"):
            read_verified(file, key)


def test_without_the_package_one_line_names_the_extra(
    signed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, public = signed
    monkeypatch.setitem(sys.modules, "model_signing", None)
    assert "pip install model-signing" in refusal(file, public)


def test_keys_of_openssl_sign_without_network(tmp_path: Path) -> None:
    """As docs/export.md makes them; a socket would raise an error."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    make = "openssl ecparam -name prime256v1 -genkey -noout -out"
    try:
        subprocess.run([*make.split(), str(private)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl")
    words = ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)]
    subprocess.run(words, check=True, capture_output=True)
    program = """
import socket, sys
from pathlib import Path
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from bcd.inference.signature import sign_data, signature_of, read_verified
file, private, public = map(Path, sys.argv[1:])
file.write_bytes(b"content")
signature_of(file).write_text(sign_data(b"content", private))
read_verified(file, public)
print("torch" in sys.modules)
"""
    words = [sys.executable, "-c", program, str(tmp_path / "model.onnx"), str(private), str(public)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
