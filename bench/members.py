"""Size, operations and time of an ensemble of frozen members beside one of them.

python -m bench.members [--members 5] [--unfreeze 0]
"""

from __future__ import annotations

import argparse
import io
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from bcd.config.compose import with_defaults
from bcd.config.head import HeadConfig
from bcd.config.schema import ModelConfig
from bcd.models.backbones.build import build_backbone
from bcd.models.network import SmearNetwork
from bench.measure import machine

_BATCH, _TIMES = 16, 20


def make_network(members: int, unfreeze: int = 0, head: str = "linear") -> SmearNetwork:
    """MobileNetV2 with random weights, in eval mode."""
    cfg = with_defaults(ModelConfig, weights=None, unfreeze=unfreeze)
    heads = with_defaults(HeadConfig, kind=head)
    return SmearNetwork(build_backbone(cfg), 4, cfg, heads, members).eval()


def size(network: SmearNetwork) -> int:
    """Bytes of the stored weights."""
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return buffer.tell()


def operations(network: SmearNetwork) -> int:
    """Floating-point operations for one image."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.outputs(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    return int(counter.get_total_flops())


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.members", description=__doc__)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--unfreeze", type=int, default=0, help="as model.unfreeze")
    asked = parser.parse_args()
    networks = [make_network(count, asked.unfreeze) for count in (1, asked.members)]
    x = torch.randint(0, 255, (_BATCH, 3, 224, 224), dtype=torch.uint8)
    seconds: list[list[float]] = [[], []]
    with torch.inference_mode():
        for turn in range(_TIMES + 1):
            for network, times in zip(networks, seconds, strict=True):
                started = time.perf_counter()
                network.outputs(x)
                if turn:  # the first one is slower
                    times.append(time.perf_counter() - started)
    print(f"{machine()}; MobileNetV2, model.unfreeze={asked.unfreeze}, batches of {_BATCH}\n")
    print("| members | bytes | operations an image | ms an image |\n|---:|---:|---:|---:|")
    for count, network, times in zip((1, asked.members), networks, seconds, strict=True):
        each = 1000 * statistics.median(times) / _BATCH
        print(f"| {count} | {size(network):,} | {operations(network):,} | {each:.2f} |")
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    print(f"\ntime: {ratio:.3f} times that of one, median of {_TIMES} pairs")


if __name__ == "__main__":
    main()
