"""The work of `bcd export`."""

from __future__ import annotations

from pathlib import Path

from bcd.config.export import ExportConfig
from bcd.console import say, short
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.decision import DecisionPolicy
from bcd.export.build import Exported, build
from bcd.export.int8 import build_int8, check_quantizable
from bcd.export.measure import check_loss, measure, show_measured
from bcd.export.run_images import RunImages
from bcd.inference.checkpoint import Card, load_checkpoint
from bcd.inference.signature import check_private_key, sign_data, signature_of
from bcd.models.network import SmearNetwork
from bcd.run_folder import find_checkpoint
from bcd.storage import replacing, typed_path


def export(cfg: ExportConfig) -> Path:
    """Exports a checkpoint, checks that the file answers like it, and writes it.

    Args:
        cfg: Checked configuration.

    Returns:
        The file.

    Raises:
        BcdError: No such checkpoint, one without a decision policy, a network that cannot be
            exported, or one whose exported answers differ.
    """
    source = find_checkpoint(cfg.ckpt)
    file = _output(cfg, source)
    network, card = load_checkpoint(source)
    key = None if cfg.sign is None else typed_path(cfg.sign)
    _check(card, cfg, key)
    exported = _build(network, card, cfg)
    signature = sign_data(exported.data, key) if key is not None else None
    _write(file, exported.data)
    if signature is not None:
        _write(signature_of(file), signature.encode())
    _tell(exported, file, cfg.precision)
    return file


def _build(network: SmearNetwork, card: Card, cfg: ExportConfig) -> Exported:
    if cfg.precision == "int8":
        return build_int8(network, card, cfg)
    exported = build(network, card, cfg.format, cfg.precision)
    if cfg.precision == "float16":
        _compare_on_images(network, card, cfg, exported)
    return exported


def _compare_on_images(
    network: SmearNetwork, card: Card, cfg: ExportConfig, exported: Exported
) -> None:
    """Prints what float16 changes on val and test, as far as the run's images are there.

    Raises:
        BcdError: The accuracy on val falls by more than `max_loss`.
    """
    try:
        images = RunImages(cfg, card)
    except BcdError as error:
        if cfg.data.root is not None:
            raise
        say(f"warning: compared on drawn images only: {error}")
        return
    pair = [build(network, card, "onnx").answer, exported.answer]
    policy = DecisionPolicy.from_plain(card.policy)
    found = {}
    for name in ("val", "test"):
        if indices := images.indices(name) if name in card.split else []:
            found[name] = measure(pair, images, indices, policy)
    show_measured(found, images.catalog.classes, cfg.precision)
    if "val" in found:
        check_loss(found["val"], cfg)


def _check(card: Card, cfg: ExportConfig, key: Path | None) -> None:
    """Checks what would otherwise fail after minutes."""
    if cfg.precision == "int8":
        check_quantizable(card)
    elif cfg.precision == "float32" and cfg.data.root is not None:
        say("warning: data.root has no effect with precision=float32")
    if key is not None:
        check_private_key(key)


def _output(cfg: ExportConfig, source: Path) -> Path:
    if cfg.output is None:
        middle = "" if cfg.precision == "float32" else f".{cfg.precision}"
        return source.with_name(f"{source.stem}{middle}{cfg.suffix}")
    file = typed_path(cfg.output)
    if file.suffix.lower() != cfg.suffix:
        raise ConfigError(f"output={cfg.output}: must end in {cfg.suffix} for format={cfg.format}")
    return file


def _write(file: Path, data: bytes) -> None:
    try:
        with replacing(file) as stream:
            stream.write(data)
    except OSError as error:
        raise BcdError(f"output={file}: cannot be written ({error.strerror or error})") from error


def _tell(exported: Exported, file: Path, precision: str) -> None:
    found, where = exported.parity, "" if exported.in_graph else "; bcd predict prepares the images"
    say(f"exported: {short(file)} ({len(exported.data) / 1e6:.1f} MB{where})")
    if precision == "int8":
        return  # it was compared on val and test
    close = found.images - found.decided
    left_out = f" ({close} more are too close to a threshold to compare)" if close else ""
    say(
        f"parity: the same decisions for {found.decided} images{left_out}; largest difference of a "
        f"probability {max(found.largest, found.rounded):.1e}"
    )
