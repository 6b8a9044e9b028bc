"""Paths on the command line arrive as they were typed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bcd.cli.paths import mapped_path, quote_paths
from bcd.config.compose import with_defaults
from bcd.storage import typed_path
from tests.helpers.harness import CONF

NAMES = (
    "ü", "a&b", "#1", "a;b", "~", "~nobody", "a~b", "<a>", "$a", "${a}", "a${b", r"a\${b}", "{}",
    "{a: 1}", "'a'", '"a"', "it's", 'a"b', "a\\", "a\\b", '\\"', "a\nb", " a", "a ", "a=b", "a,b",
    "???", "null ", "true", "123", "1e5", "0x10", "[a]", "[a, b]", "(a)", "choice(a,b)", "a:b",
    "@a", "%a", "!a", "*", "a\tb", "-a", "+a", "None", "inf", "${oc.env:HOME}", "a\udcffb", "日本",
)  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arrive(argument: str) -> object:
    """The value that the program receives from an argument."""
    override = OverridesParser.create().parse_override(*quote_paths([argument]))
    assert not override.is_sweep_override()
    cfg = OmegaConf.create({"value": override.value()})
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return plain["value"]


def test_any_name_arrives_whether_the_file_exists_or_not(here: Path) -> None:
    for name in NAMES:
        for text in (str(here / name), name):
            (here / name).touch()
            given = arrive(f"input={text}")
            assert given == (text if text != "???" else "./???")
            assert typed_path(str(given)).exists()
            (here / name).unlink()
            if text != name:
                assert arrive(f"+data.root={text}") == text


def test_names_arrive_through_the_whole_composition(here: Path) -> None:
    quoted = quote_paths(["ckpt=${a} #1", "input=[1e5,ü;]"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("predict", overrides=["run_dir=x", *quoted])
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    assert plain["ckpt"] == "${a} #1"
    assert plain["input"] == ["1e5", "ü;"]


def test_the_model_of_predict_is_a_path_and_elsewhere_a_choice(here: Path) -> None:
    for name in (*NAMES, "mobilenetv2", "a.onnx", "a ${b}\\${c}.onnx"):
        (here / name).touch()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("predict", overrides=quote_paths([f"model={name}"], "predict"))
        cfg.model = mapped_path(cfg.model)
        assert cfg.model == (name if name != "???" else "./???")
    assert quote_paths(["model=mobilenetv2"], "train") == ["model=mobilenetv2"]
    several = quote_paths(["-m", "model=a.onnx,b.onnx"], "predict")
    assert several == ["-m", 'model={file:"a.onnx"},{file:"b.onnx"}']
    assert mapped_path(None) is None


def test_names_arrive_in_lists(here: Path) -> None:
    there = [name for name in NAMES if name == name.strip() and name != "???"]
    for name in there:
        (here / name).touch()
    assert arrive(f"input=[{','.join(there)}]") == there
    assert arrive("input=[a, b]") == "[a, b]"  # there is a file of that name
    assert arrive("input=['q', \"r,s\", d e]") == ["q", "r,s", "d e"]
    assert arrive("input=[]") == []


def test_hydra_syntax_is_kept_unless_a_file_has_that_name(here: Path) -> None:
    kept = [
        "resume=null", "data.root='a b'", 'data.root="a"', "data.root=${oc.env:HOME}", "data.root=",
        "hydra.run.dir=outputs/${now:%Y}", "seed=1,2", "name=a b", "data=generated", "~trainer",
        "-m", "model.weights=null",
    ]  # fmt: skip
    assert quote_paths(kept) == kept
    assert quote_paths(["-m", "data.root=choice(a,b)"]) == ["-m", "data.root=choice(a,b)"]
    assert quote_paths(["model.weights=[null,imagenet]"]) == ['model.weights=[null,"imagenet"]']


def test_a_multirun_goes_through_paths(here: Path) -> None:
    parser = OverridesParser.create()

    def swept(text: str) -> list[str]:
        (override,) = quote_paths(["-m", f"data.root={text}"])[1:]
        found = parser.parse_override(override)
        assert found.is_sweep_override()
        words = list(found.sweep_string_iterator())
        return [str(parser.parse_override(f"data.root={word}").value()) for word in words]

    (here / "a b,c").touch()
    assert swept("1,ü#,~d") == ["1", "ü#", "~d"]
    assert swept("a b,c,x y") == ["a b,c", "x y"]
    assert quote_paths(["--multirun", "data.root=a b,c"])[1] == 'data.root="a b,c"'
    assert quote_paths(["data.root=d,e"]) == ['data.root="d,e"']


def test_paths_come_back_from_config_yaml(tmp_path: Path) -> None:
    import yaml

    from bcd.config.schema import DataConfig
    from bcd.run_folder import write_config

    for name in NAMES:
        write_config(tmp_path, with_defaults(DataConfig, root=name))
        told = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
        assert told["root"] == name


def test_a_tilde_is_the_home_folder_unless_a_file_has_that_name(here: Path) -> None:
    assert typed_path("~/x") == Path.home() / "x"
    assert typed_path("~no-such-user/x") == Path("~no-such-user/x")
    (here / "~").mkdir()
    assert typed_path("~") == Path("~")
    assert os.path.lexists(typed_path("~"))
