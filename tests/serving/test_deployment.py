"""The files in deploy/, checked without Docker: what they name exists, and nothing is left open."""

from __future__ import annotations

import ast
import configparser
import re
import shlex
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcd.config.check import check_config
from bcd.config.serve import ServeConfig
from tests.helpers.harness import ROOT

DEPLOY = ROOT / "deploy"
SECRET = re.compile(r"(?i)(password|passwd|secret|token|api_?key)\s*[=:]\s*\S+")


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, with continued lines joined."""
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text)
    return [
        (name.upper(), rest.strip())
        for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def values(name: str) -> list[str]:
    return [rest for instruction, rest in dockerfile() if instruction == name]


def test_the_image_runs_as_nobody_special_from_pinned_images() -> None:
    for image in values("FROM"):
        tag = image.split()[0].partition(":")[2]
        assert re.fullmatch(r"\d+\.\d+-slim-\w+", tag), image
    stages = " ".join(f"{name} {rest}" for name, rest in dockerfile()).split("FROM ")[1:]
    users = re.findall(r"USER (\S+)", stages[-1])
    assert users and all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)
    assert not values("ADD")
    assert not any(SECRET.search(rest) for _, rest in dockerfile())
    assert not re.search(r"\b(sudo|chmod\s+777|curl|wget)\b", " ".join(values("RUN")))


def test_the_image_is_made_of_files_that_are_there_and_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    assert ignored[1] == "*" and all((ROOT / name).exists() for name in sent)
    copied = []
    for words in map(shlex.split, values("COPY")):
        if not any(word.startswith("--from=") for word in words):
            copied += [word for word in words[:-1] if not word.startswith("--")]
    assert sorted(copied) == sorted(sent)
    assert not any(fnmatch(name, "*.onnx") or "secret" in name for name in sent)


def test_the_health_check_is_python_that_asks_the_port_that_is_exposed() -> None:
    (check,), (port,) = values("HEALTHCHECK"), values("EXPOSE")
    command = ast.literal_eval(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "health", "exec")
    assert f"127.0.0.1:{port}/healthz" in command[2]


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return read


@pytest.mark.parametrize("name", ["server", "database", "proxy"])
def test_a_service_is_confined(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "cpus", "pids_limit", "restart", "tmpfs", "logging"} <= set(service)
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert "healthcheck" in service or "build" in service  # the image has its own
    assert "privileged" not in service and "network_mode" not in service
    assert not any("docker.sock" in str(volume) for volume in service["volumes"])
    if name != "server":
        assert re.fullmatch(r"\w+:\d+(\.\d+)?-\w+", service["image"])


def test_only_the_proxy_can_be_reached() -> None:
    read = compose()
    assert set(read["services"]) == {"server", "database", "proxy"}
    assert [name for name, one in read["services"].items() if "ports" in one] == ["proxy"]
    inside = {name for name, one in read["networks"].items() if one.get("internal")}
    for name in ("server", "database"):
        assert set(read["services"][name]["networks"]) <= inside
    assert not set(read["services"]["database"]["networks"]) & set(
        read["services"]["proxy"]["networks"]
    )


def test_secrets_are_files_and_everything_named_is_declared() -> None:
    read = compose()
    for service in read["services"].values():
        assert set(service.get("secrets", [])) <= set(read["secrets"])
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|RECORDS|SECRET", name):
                assert name.endswith("_FILE")
                assert value.removeprefix("/run/secrets/") in service["secrets"]
        for volume in (one for one in service["volumes"] if isinstance(one, str)):
            source = volume.partition(":")[0]
            known = source in read["volumes"] or (DEPLOY / source).is_file()
            assert known, source
    assert all(set(secret) == {"file"} for secret in read["secrets"].values())
    server = read["services"]["server"]
    assert (DEPLOY / server["build"]["context"] / server["build"]["dockerfile"]).is_file()


def test_the_composed_server_has_a_valid_configuration_and_time_to_stop() -> None:
    read = compose()
    cfg = configuration(read["services"]["server"]["command"])
    assert cfg.proxy.trusted == [read["services"]["proxy"]["networks"]["inside"]["ipv4_address"]]
    assert cfg.url == "https://name" and cfg.host == "0.0.0.0"
    grace = read["services"]["server"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > cfg.limits.stop_seconds
    (command,) = values("CMD")
    assert configuration(ast.literal_eval(command)).model == "/model/model.onnx"


def configuration(words: list[str]) -> ServeConfig:
    """What `bcd serve` reads from words in which variables are filled in."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from bcd.cli.paths import mapped_path, quote_paths
    from tests.helpers.harness import CONF

    filled = [re.sub(r"\$\{\w+:\?[^}]*\}", "name", word) for word in words]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra_compose("serve", quote_paths(filled, "serve"))
    cfg.model = mapped_path(cfg.model)
    return check_config(cfg, ServeConfig)


def test_the_proxy_hides_metrics_and_drops_headers_that_name_users() -> None:
    text = (DEPLOY / "Caddyfile").read_text("utf-8")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    depth = 0
    for line in lines:  # blocks are closed, and none before it was opened
        depth += line.endswith("{") - (line == "}")
        assert depth >= 0
    assert depth == 0
    assert "{$BCD_SITE} {" in lines and "admin off" in lines
    matcher = next(line for line in lines if line.startswith("@inside path"))
    assert "/metrics" in matcher.split() and "respond @inside 404" in lines
    port = values("EXPOSE")[0]
    assert f"reverse_proxy server:{port} {{" in lines
    assert {"header_up -X-Bcd-User", "header_up -X-Bcd-Roles"} <= set(lines)
    assert not any(line.startswith("encode") for line in lines)
    assert any(line.startswith("header Strict-Transport-Security") for line in lines)


def unit() -> configparser.ConfigParser:
    read = configparser.ConfigParser(interpolation=None, strict=False)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read(DEPLOY / "bcd-serve.service", "utf-8")
    return read


def test_the_unit_confines_the_server() -> None:
    service = unit()["Service"]
    expected = {
        "User": "bcd", "Group": "bcd", "RestrictSUIDSGID": "yes", "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
        "ProtectHome": "yes", "PrivateTmp": "yes", "PrivateDevices": "yes", "UMask": "0077",
        "StateDirectory": "bcd", "StateDirectoryMode": "0700", "CapabilityBoundingSet": "",
        "SystemCallFilter": "@system-service",
    }  # fmt: skip
    assert {name: service[name] for name in expected} == expected
    program, verb, *words = service["ExecStart"].replace("%S", "/var/lib").split()
    assert Path(program).is_absolute() and verb == "serve"
    cfg = configuration([word for word in words if not word.startswith("$")])
    assert cfg.folder == f"/var/lib/{service['StateDirectory']}"
    assert int(service["TimeoutStopSec"]) > cfg.limits.stop_seconds


def test_the_commands_of_the_page_find_the_records() -> None:
    """Who runs them, and where the records are, is as in the unit and in the container."""
    text = (ROOT / "docs" / "serving.md").read_text("utf-8")
    service = unit()["Service"]
    program = service["ExecStart"].split()[0]
    commands = re.findall(r"^sudo -u (\w+) (\S+) serve .* --folder (\S+)$", text, re.M)
    assert set(commands) == {
        (service["User"], program, f"/var/lib/{service['StateDirectory']}")
    }  # fmt: skip
    assert f"useradd --system --home-dir {commands[0][2]} " in text
    assert f"python3 -m venv {Path(program).parents[1]}\n" in text
    (entry,) = (rest.split()[-1] for rest in values("COPY") if "entrypoint" in rest)
    inside = re.findall(r"^docker (?:compose .*|)exec (\w+) (\S+) \w+ \w+(.*)$", text, re.M)
    # The entry point knows the database's URL; where there is none, records are in the folder.
    assert {name for _, name, _ in inside} == {Path(entry).name}
    (command,) = values("CMD")
    folder = configuration(ast.literal_eval(command)).folder
    places = {who: more for who, _, more in inside}
    assert places == {"server": "", "bcd": f" --folder {folder}"}
    assert "BCD_RECORDS_FILE" in compose()["services"]["server"]["environment"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = (
        (DEPLOY / "bcd-serve.service").read_text("utf-8").replace("/opt/bcd/bin/bcd", "/bin/true")
    )
    (tmp_path / "bcd-serve.service").write_text(text, "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "bcd-serve.service")], capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_the_entry_point_reads_the_url_from_its_file_and_hands_on_the_options(
    tmp_path: Path,
) -> None:
    (tmp_path / "bcd").write_text('#!/bin/sh\necho "$BCD_RECORDS $*"\n')
    (tmp_path / "bcd").chmod(0o755)
    (tmp_path / "url").write_text("postgresql://one\n")
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "BCD_RECORDS_FILE": str(tmp_path / "url")}
    command = ["sh", str(DEPLOY / "entrypoint.sh"), "model=a b", "port=1"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "postgresql://one serve model=a b port=1\n"
    missing = env | {"BCD_RECORDS_FILE": str(tmp_path / "none")}
    assert subprocess.run(command, env=missing, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("name, extras", [("serve", ["serve"]), ("hospital", ["dicom", "fhir"])])
def test_the_lists_of_requirements_have_the_ranges_of_the_package(
    name: str, extras: list[str]
) -> None:
    declared = (ROOT / "pyproject.toml").read_text("utf-8")
    lines = (ROOT / f"requirements-{name}.txt").read_text("utf-8").splitlines()
    needed = [line for line in lines if not line.startswith(("#", "-r"))]
    assert all(f'"{line}"' in declared for line in needed)
    for extra in extras:
        found = re.search(rf"^{extra} = \[(.*?)\]$", declared, re.M | re.S)
        assert found is not None
        assert set(re.findall(r'"([^"]+)"', found[1])) <= set(needed)
