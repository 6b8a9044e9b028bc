"""Measures what images of a site look like, and writes the site's profile.

bcd site root=<folder>
bcd site root=<folder> output=site.json

The profile serves `site.profile` of bcd eval and bcd predict.
"""

from typing import TYPE_CHECKING

from bcd.cli.app import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: "DictConfig") -> int:
    """Measures; returns the exit status."""
    from bcd.config.check import check_config
    from bcd.config.programs import SiteProfileConfig

    with quick_imports():
        checked = check_config(cfg, SiteProfileConfig)
        from bcd.data.site_profile import profile_site

    profile_site(checked)
    return 0
