"""Sites of a server, as configured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bcd.cli.overrides import with_plus
from bcd.config.sites import Site, read_sites
from bcd.errors import ConfigError
from tests.helpers.harness import CONF
from tests.serving.making import serve_config


def test_the_own_site_comes_first_and_may_have_settings(tmp_path: Path) -> None:
    cfg = serve_config(
        tmp_path, "site=main", "watch=scans", "+sites.east.threshold=0.3",
        "+sites.east.ae_titles=[ONE, TWO]", "+sites.main.threshold=0.2", "+sites.east.watch=other",
    )  # fmt: skip
    assert list(read_sites(cfg).items()) == [
        ("main", Site("main", threshold=0.2, watch="scans")),
        ("east", Site("east", threshold=0.3, watch="other", ae_titles=("ONE", "TWO"))),
    ]
    assert read_sites(serve_config(tmp_path)) == {"": Site("")}
    odd = serve_config(tmp_path, "+sites.east.profile=a [b]=c.json")
    assert read_sites(odd)["east"].profile == "a [b]=c.json"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["+sites.east.thresold=0.3"], "unknown key; did you mean 'threshold'?"),
        (["+sites.east.threshold=1"], "sites.east.threshold=1: must be between 0 and 1"),
        (["+sites.east.threshold=true"], "sites.east.threshold=True: needs a number"),
        (["+sites.east.profile=a.json", "+sites.east.colour=maceko"], "did you mean 'macenko'?"),
        (["+sites.east.colour=macenko"], "needs sites.east.profile=<from bcd site>"),
        (["+sites.east.scale=false"], "needs sites.east.profile=<from bcd site>"),
        (["+sites.east=3"], "sites.east=3: give it keys"),
        (["+sites.all.threshold=0.3"], "stands for all sites"),
        (["site=east", "+sites.East.threshold=0.3"], "sites.East: differs from east in case only"),
        (["site='a b'"], "site: names of sites have letters"),
        (["watch=a", "+sites.east.watch=a/b/.."], "the same folder as watch"),
        (["+sites.east.watch=a", "+sites.west.watch=a/b"], "inside, or around, that of"),
        (["+sites.east.ae_titles=[A]", "+sites.west.ae_titles=[A]"], "A is of sites.east already"),
        (["+sites.east.ae_titles=[AAAAAAAAAAAAAAAAA]"], "is no AE title"),
        (
            ["+sites.east.threshold=0.3", "proxy.trusted=[10.0.0.1]", "proxy.user_header=X-User",
             "proxy.roles_header=X-Roles"], "give proxy.site_header=",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(tmp_path: Path, given: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        serve_config(tmp_path, *given)


@pytest.mark.parametrize(
    ("argument", "key", "tried"),
    [
        ("sites.east.threshold=0.3", "sites.east.threshold", "+sites.east.threshold=0.3"),
        ("sites.east={threshold: 0.3}", "sites.east", "+sites.east={threshold: 0.3}"),
        ("sites={east: {threshold: 0.3}}", "sites", "++sites={east: {threshold: 0.3}}"),
        ("port.east=3", "port.east", None),
    ],
)
def test_names_of_sites_are_the_users(argument: str, key: str, tried: str | None) -> None:
    message = f"Could not override '{key}'."
    found = with_plus([argument], message, "serve", CONF)
    assert found == (None if tried is None else [tried])
