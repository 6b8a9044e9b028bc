"""The text of `--help`. Hydra's own takes over a second, mostly for Hydra's own groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bcd.console import short


def usage(description: str, arguments: Sequence[str], config_name: str, conf: Path) -> str:
    """Describes a command: its purpose, the groups to choose from, and its configuration.

    Args:
        description: Of the command, with examples.
        arguments: Overrides given with `--help`; they are applied to the configuration shown.
        config_name: Name of the primary YAML file in `conf`.
        conf: Folder of the configuration.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose(config_name, overrides=list(arguments))
    lines = [description.strip(), ""]
    named = [line.split(":")[0] for line in (conf / f"{config_name}.yaml").read_text().splitlines()]
    used = {name.strip(" -") for name in named if name.startswith("  - ")}
    groups = [folder for folder in sorted(conf.iterdir()) if folder.name in used]
    if groups:
        lines += ["Choose with group=choice:"]
        for group in groups:
            choices = ", ".join(sorted(file.stem for file in group.glob("*.yaml")))
            lines.append(f"  {group.name + ':':<12}{choices}")
        lines.append("")
    lines += [f"Set with key=value (each key is explained in {short(conf)}):", ""]
    lines.append(OmegaConf.to_yaml(cfg))
    lines.append("Several runs: -m with comma-separated values, as in -m seed=0,1,2")
    lines.append("Hydra's own help: --hydra-help")
    return "\n".join(lines)
