"""`bcd serve verify`, `backup`, `restore`, `erase`, `expire`, `models` and `key`."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command

from bcd.__main__ import SERVE_COMMANDS
from bcd.__main__ import main as bcd
from bcd.commands import serve
from bcd.commands.serve_accounts import main as accounts
from bcd.commands.serve_records import main
from bcd.errors import BcdError, ConfigError
from bcd.serving.records.cases import ERASED
from bcd.serving.records.database import connect, database_url, writing
from bcd.serving.records.store import open_records
from bcd.serving.records.upgrade import migrate
from bcd.serving.records.verify import verify
from bcd.storage import file_sha256
from tests.serving.making import IDENTITY, serve_config
from tests.serving.records.making import content, filled, images, images_config, tamper


@pytest.fixture
def case_id(url: str) -> str:
    """An open case, in records with rows in every table."""
    with open_records(url, images_config()) as records:
        return filled(records)


def test_verify_prints_a_head_and_finds_changes(
    url: str, case_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--records", url]) == 0
    head = capsys.readouterr().out.strip()
    assert head == verify(url).head
    assert main(["verify", "--records", url, "--head", head]) == 0
    tamper(url, f"UPDATE cases SET status = 'open', version = 1 WHERE id <> '{case_id}'")
    capsys.readouterr()
    assert main(["verify", "--records", url]) == 1
    assert "NOT WHOLE: table cases" in capsys.readouterr().err


def test_models_says_which_version_answered_which_case(
    url: str, case_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = replace(IDENTITY, name="newer", sha256="9" * 64, card_sha256="8" * 64)
    with open_records(url, images_config()) as records:
        other = records.open_case("anna", "1,2", newer, 1, "east")
        earlier = len(records.case(case_id).images)
        every = sum(1 for _ in records.statistics(0))
    assert main(["models", "--records", url, "--cases"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    by_case = {row["id"]: row for row in rows}
    assert by_case[case_id]["sha256"] == IDENTITY.sha256
    assert by_case[case_id]["images"] == str(earlier)
    assert (by_case[other]["sha256"], by_case[other]["site"]) == (newer.sha256, "east")
    assert by_case[other]["images"] == "0"
    assert main(["models", "--records", url]) == 0
    uses = {row["name"]: row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert [uses["newer"][key] for key in ("sha256", "card_sha256")] == ["9" * 64, "8" * 64]
    assert [uses["newer"][key] for key in ("answers", "cases", "open")] == ["0", "1", "1"]
    assert uses[IDENTITY.name]["answers"] == str(every)


def test_erase_and_expire_beside_a_running_server(
    url: str, case_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_records(url, images_config(keep=False)) as records:
        image_ids = records.add_images("anna", case_id, IDENTITY, images(1))
        assert records.image(case_id, image_ids[0]) == content(0)  # in the server's memory
        assert main(["expire", "--days", "0", "--records", url]) == 0
        assert "images removed: 5" in capsys.readouterr().err
        assert main(["erase", case_id, "--reason", "asked", "--records", url]) == 0
        assert records.case(case_id).status == ERASED
        assert records.image(case_id, image_ids[0]) is None
        records.event("anna", "login", {})
        with pytest.raises(BcdError, match="erased already"):
            main(["erase", case_id, "--reason", "asked", "--records", url])
    assert verify(url).problems == ()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_backup_of_a_running_server_is_restored(url: str, case_id: str, tmp_path: Path) -> None:
    backup = tmp_path / "backup.sqlite"
    with open_records(url, images_config()) as records:
        before = records.case(case_id)
        assert main(["backup", str(backup), "--records", url]) == 0
        records.add_images("anna", case_id, IDENTITY, images(1))
    assert backup.stat().st_mode & 0o077 == 0
    assert [file.name for file in tmp_path.glob("*backup*")] == [backup.name]
    with pytest.raises(BcdError, match="exists already"):
        main(["backup", str(backup), "--records", url])
    with pytest.raises(BcdError, match="exists already"):
        main(["restore", str(backup), "--records", url])
    folder = tmp_path / "new"
    assert main(["restore", str(backup), "--folder", str(folder)]) == 0
    with open_records(f"sqlite:///{folder / 'records.sqlite'}", images_config()) as records:
        assert records.case(case_id) == before
        assert records.image(case_id, before.images[0].id) == content(0)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_damaged_backup_makes_no_records(
    url: str, case_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup, new = tmp_path / "backup", tmp_path / "new"
    tamper(url, f"UPDATE texts SET text = 'x' WHERE case_id = '{case_id}'")
    main(["backup", str(backup), "--records", url])
    assert main(["restore", str(backup), "--folder", str(new)]) == 1
    told = capsys.readouterr().err
    assert "NOT WHOLE: table texts" in told
    assert "nothing was restored" in told
    whole = backup.read_bytes()
    for name, data in (("empty", b""), ("text", b"x" * 9000), ("cut", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(data)
        try:
            assert main(["restore", str(tmp_path / name), "--folder", str(new)]) == 1
        except BcdError as error:
            assert str(tmp_path / name) in str(error)
    assert list(new.iterdir()) == []


def test_a_backup_of_an_older_version_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup, new = tmp_path / "backup.sqlite", tmp_path / "new" / "records.sqlite"
    engine = connect(f"sqlite:///{backup}")
    with monkeypatch.context() as patched, writing(engine) as connection:
        patched.setattr(
            command, "upgrade", lambda config, _, run=command.upgrade: run(config, "0001")
        )
        migrate(connection)
    engine.dispose()
    before = file_sha256(backup)
    with pytest.raises(BcdError, match="of an older bcd"):
        main(["verify", "--records", f"sqlite:///{backup}"])
    assert main(["restore", str(backup), "--folder", str(new.parent)]) == 0
    assert [each.name for each in new.parent.iterdir()] == [new.name]
    assert verify(f"sqlite:///{new}").problems == ()
    assert file_sha256(backup) == before


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_copy_that_cannot_be_written_is_one_line(url: str, case_id: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path / "none" / "backup", tmp_path / "file" / "backup"):
        with pytest.raises(BcdError, match="backup: cannot be written: No"):
            main(["backup", str(target), "--records", url])
    main(["backup", str(tmp_path / "backup"), "--records", url])
    with pytest.raises(BcdError, match="cannot be written"):
        main(["restore", str(tmp_path / "backup"), "--folder", str(tmp_path / "file" / "new")])


def test_postgresql_has_its_own_commands_for_backups(tmp_path: Path) -> None:
    url = "postgresql+psycopg://anna:hunter2@host/bcd"
    (tmp_path / "file").touch()
    for asked in ("backup", "restore"):
        with pytest.raises(BcdError) as caught:
            main([asked, str(tmp_path / "file"), "--records", url])
        assert "postgresql://anna@host/bcd" in str(caught.value)
        assert f"pg_{'dump' if asked == 'backup' else 'restore'}" in str(caught.value)


def test_records_that_are_not_there_are_not_made(tmp_path: Path) -> None:
    place = ["--folder", str(tmp_path / "none")]
    for asked in (["verify"], ["expire", "--days", "1"], ["backup", str(tmp_path / "b")]):
        with pytest.raises(BcdError, match="no records there"):
            main([*asked, *place])
    for line in ("user add Ada --roles admin --no-password", "user list", "token list"):
        with pytest.raises(BcdError, match=r"no records there.*first start"):
            accounts([*line.split(), *place])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["postgresql://anna@host:abc/bcd", "postgresql://[::1/bcd", "records.sqlite", "sqlite:"]
)
def test_a_url_that_is_none_is_refused_in_one_line(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCD_RECORDS", url)
    with pytest.raises(ConfigError, match=r"^records"):
        main(["verify"])


def test_an_empty_variable_means_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCD_RECORDS", "")
    cfg = serve_config(tmp_path)
    assert database_url(cfg.records, cfg.folder) == f"sqlite:///{tmp_path / 'records.sqlite'}"


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "many"])
def test_an_age_that_is_none_removes_nothing(
    days: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["expire", f"--days={days}", "--folder", str(tmp_path)])
    assert caught.value.code == 2
    assert days in capsys.readouterr().err


def test_serve_with_a_known_word_is_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bcd", "serve", "key", str(tmp_path / "key")])
    with pytest.raises(SystemExit) as caught:
        bcd()
    assert caught.value.code == 0
    assert (tmp_path / "key").exists()
    monkeypatch.setattr(sys, "argv", ["bcd", "serve", "verify", "--help"])
    with pytest.raises(SystemExit) as caught:
        bcd()
    assert caught.value.code == 0
    assert "usage: bcd serve verify" in capsys.readouterr().out
    assert all(f" {word} " in str(serve.__doc__).splitlines()[4] for word in SERVE_COMMANDS)
