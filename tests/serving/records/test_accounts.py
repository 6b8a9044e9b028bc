"""Accounts on both databases: changes by several processes, full disks, and their records."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from argon2 import PasswordHasher

from bcd.commands.serve_accounts import main
from bcd.errors import BcdError
from bcd.serving.accounts.store import Accounts
from bcd.serving.accounts.tables import SESSIONS, TOKENS, USERS
from bcd.serving.accounts.user import User
from bcd.serving.errors import ConflictError, ForbiddenError, StorageFullError, UnavailableError
from bcd.serving.records.tables import METADATA, RECORDS
from bcd.serving.records.upgrade import prepare
from bcd.serving.records.verify import verify
from tests.helpers.harness import error_lines, verb
from tests.serving.accounts.making import session_of
from tests.serving.making import serve_config
from tests.serving.records.making import add_people, tamper

PASSWORD, OTHER = "four drawn white cells", "five drawn white cells"


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accounts, "hasher", PasswordHasher(1, 8, 1))


@pytest.fixture
def two(url: str, tmp_path: Path) -> tuple[Accounts, Accounts]:
    """Two servers of one database."""
    cfg = serve_config(tmp_path)
    return Accounts(prepare(url), cfg), Accounts(prepare(url), cfg)


def test_what_one_process_changes_holds_in_the_other(
    url: str, two: tuple[Accounts, Accounts]
) -> None:
    here, there = two
    assert here.proxy_key == there.proxy_key
    here.users.add("", "Ada", PASSWORD, ["admin", "sign"])
    there.users.add("Ada", "Tess", PASSWORD, ["submit"])
    assert [account.name for account in here.users.all()] == ["Ada", "Tess"]
    assert there.log_in("ada", PASSWORD, "") and not there.log_in("ada", OTHER, "")
    cookie, token = session_of(here, "tess"), here.tokens.add("Ada", "tess", ["submit"], 1)
    user, program = there.sessions.user(cookie), there.tokens.user(token)
    assert user is not None and program is not None and user.roles == program.roles == {"submit"}
    here.users.set_disabled("Ada", "tess", True)
    assert there.sessions.user(cookie) is None and there.tokens.user(token) is None
    with pytest.raises(ConflictError):
        there.users.set_disabled("Ada", "ada", True)
    engine = prepare(url)
    with engine.connect() as connection:
        kinds = connection.execute(sa.select(RECORDS.c.kind).order_by(RECORDS.c.number)).scalars()
        assert list(kinds) == [
            "key made", "user added", "user added", "login", "login failed", "login",
            "token added", "user disabled",
        ]  # fmt: skip
    engine.dispose()
    assert verify(url).problems == ()


def test_a_role_given_by_hand_is_named(url: str, tmp_path: Path) -> None:
    engine = prepare(url)
    add_people(engine, tmp_path)
    with engine.begin() as connection:
        stored = {
            *connection.scalars(sa.select(USERS.c.password).where(USERS.c.key != "pro")),
            *(digest.hex() for digest in connection.scalars(sa.select(TOKENS.c.digest))),
        }
        payloads = " ".join(connection.scalars(sa.select(RECORDS.c.payload)))
        assert stored and not any(secret in payloads for secret in stored)
    engine.dispose()
    assert verify(url).problems == ()
    tess = sa.update(USERS).where(USERS.c.key == "tess")
    for value, named in (("submit,review,admin", True), ("submit,review", False)):
        tamper(url, tess.values(roles=value))
        expected = "table users, row tess: column roles differs from the chain"
        assert verify(url).problems == ((expected,) if named else ())


def test_a_secret_of_another_type_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'records.sqlite'}"
    engine = prepare(url)
    add_people(engine, tmp_path)
    with engine.connect() as connection:
        digest = connection.scalars(sa.select(TOKENS.c.digest)).first()
    engine.dispose()
    assert digest is not None
    in_chain = hashlib.sha256(digest).hexdigest()
    for change, named in (
        ("users SET password = CAST(password AS BLOB) WHERE key = 'tess'", "column password"),
        (f"tokens SET digest = '{in_chain}' WHERE digest = x'{digest.hex()}'", "column digest"),
    ):
        tamper(url, f"UPDATE {change}")
        assert any(named in problem for problem in verify(url).problems)


def test_a_hash_is_not_renewed_if_the_password_is_another_by_now(
    url: str, two: tuple[Accounts, Accounts]
) -> None:
    here, there = two
    here.users.add("", "Ada", PASSWORD, ["admin"])
    read = here.users.row("ada")
    assert read is not None
    there.users.set_password("Ada", "ada", OTHER)
    here.users.rehash(read, PASSWORD)
    assert here.log_in("ada", OTHER, "") is not None
    assert verify(url).problems == ()


def test_the_same_user_is_added_once(two: tuple[Accounts, Accounts]) -> None:
    def add(number: int) -> bool:
        try:
            two[number % 2].users.add("", "Tess", PASSWORD, ["submit"])
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(add, range(6))) == 1


def test_two_admins_cannot_disable_each_other(two: tuple[Accounts, Accounts]) -> None:
    for name in ("Ada", "Eve"):
        two[0].users.add("", name, PASSWORD, ["admin"])

    def disable(number: int) -> bool:
        try:
            two[number].users.set_disabled("", ("Ada", "Eve")[number], True)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(disable, range(2))) == 1


def test_one_link_makes_one_admin(two: tuple[Accounts, Accounts]) -> None:
    links = [accounts.setup_path().partition("=")[2] for accounts in two]
    assert links[0] != links[1]

    def set_up(number: int) -> bool:
        try:
            two[number % 2].set_up(links[number % 2], f"Ada{number}", PASSWORD)
        except (ConflictError, ForbiddenError):
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(set_up, range(4))) == 1


def test_migrations_make_the_tables_that_are_declared(url: str) -> None:
    engine = prepare(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    engine.dispose()


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    engine = prepare(f"sqlite:///{tmp_path / 'full.sqlite'}")
    now = [1_800_000_000.0]
    accounts = Accounts(engine, serve_config(tmp_path), lambda: now[0])
    accounts.users.add("", "Ada", PASSWORD, ["admin"])
    cookie = session_of(accounts, "ada")

    @sa.event.listens_for(engine, "begin")
    def _full(connection: sa.Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    def fill() -> None:
        for number in range(1000):
            accounts.users.add("", f"user{number}", PASSWORD, ["submit"])

    def log_out(value: str, times: int = 1) -> None:
        for _ in range(times):
            accounts.sessions.end(User("Ada", frozenset(), "session"), value)

    with pytest.raises(StorageFullError):
        fill()
    with engine.connect() as connection:
        users = connection.execute(sa.select(sa.func.count()).select_from(USERS)).scalar_one()
    found = verify(f"sqlite:///{tmp_path / 'full.sqlite'}")
    assert found.records == users + 2  # and a key and a login
    with pytest.raises(StorageFullError):
        log_out("no session", times=100)  # these records are smaller
    now[0] += 600  # it would be noted that the session is used
    assert accounts.sessions.user(cookie) is not None
    with pytest.raises(StorageFullError):
        log_out(cookie)
    assert accounts.sessions.user(cookie) is not None


def test_a_database_that_is_gone_lets_nobody_in(tmp_path: Path) -> None:
    engine = prepare(f"sqlite:///{tmp_path / 'gone.sqlite'}")
    accounts = Accounts(engine, serve_config(tmp_path))
    accounts.users.add("", "Ada", PASSWORD, ["admin"])
    cookie = session_of(accounts, "ada")
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE users RENAME TO elsewhere"))
    for ask in (
        lambda: accounts.sessions.user(cookie),
        lambda: accounts.log_in("ada", PASSWORD, ""),
        lambda: accounts.users.add("", "Eve", PASSWORD, ["admin"]),
    ):
        with pytest.raises(UnavailableError):
            ask()


def test_commands_change_users_and_tokens(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(line: str, typed: str = "") -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{typed}\nsecond line\n"))
        assert main([*line.split(), "--records", url]) == 0
        return capsys.readouterr().out

    accounts = Accounts(prepare(url), serve_config(tmp_path))
    run("user add Ada --roles admin,submit", PASSWORD)
    run("user add Tess --roles submit --first", PASSWORD)
    run("user add Pro --roles review --no-password --site east", PASSWORD)
    for site, following in (("east", "west"), ("west", "all"), ("", "east")):
        assert (found := accounts.users.find("pro")) is not None and found.site == site
        run(f"user site pro {following}")
    token = run("token add tess --roles submit,review --days 2").strip()
    assert (user := accounts.tokens.user(token)) is not None and user.roles == {"submit"}
    tess = accounts.log_in("tess", PASSWORD, "")
    assert tess is not None and tess.account.must_change
    run("user password tess", OTHER)
    assert accounts.sessions.user(tess.cookie) is None and accounts.tokens.user(token) is None
    token = run("token add tess --roles review").strip()
    assert accounts.log_in("tess", OTHER, "") is not None
    run("user roles tess --roles review")
    assert (found := accounts.users.find("tess")) is not None and found.roles == {"review"}
    run(f"token revoke {accounts.tokens.all()[0].id}")
    assert accounts.tokens.user(token) is None
    run("user disable tess")
    assert accounts.log_in("tess", OTHER, "") is None
    run("user enable tess")
    assert accounts.log_in("tess", OTHER, "") is not None
    for line, typed, why in [
        ("user add Eve --roles admin", "short", "at least 12 characters"),
        ("user add Eve --roles root", PASSWORD, "no role 'root'"),
        ("user disable nobody", "", "no such user"),
        ("user add Eve --roles sign --site x/y", PASSWORD, "site's name has at most"),
        ("token add tess --roles submit --days 1e9", "", "at most 3650 days"),
    ]:
        with pytest.raises(BcdError, match=why):
            run(line, typed)
    assert [account.name for account in accounts.users.all()] == ["Ada", "Pro", "Tess"]
    assert accounts.log_in("pro", PASSWORD, "") is None
    assert verify(url).problems == ()


def test_a_typed_password_is_asked_for_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter([PASSWORD, OTHER, PASSWORD, PASSWORD])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _: next(typed))
    line = ["user", "add", "Ada", "--roles", "admin", "--folder", str(tmp_path)]
    prepare(f"sqlite:///{tmp_path / 'records.sqlite'}").dispose()
    with pytest.raises(BcdError, match="differ"):
        main(line)
    assert main(line) == 0
    accounts = Accounts(prepare(f"sqlite:///{tmp_path / 'records.sqlite'}"), serve_config(tmp_path))
    assert accounts.log_in("ada", PASSWORD, "") is not None


def test_bcd_serve_has_these_commands(tmp_path: Path) -> None:
    accounts = Accounts(prepare(f"sqlite:///{tmp_path / 'records.sqlite'}"), serve_config(tmp_path))
    accounts.users.add("", "Ada", PASSWORD, ["admin"])
    command = ["token", "add", "ada", "--roles", "admin", "--folder", str(tmp_path)]
    made = verb("serve", *command)
    user = accounts.tokens.user(made.stdout.strip())
    assert made.returncode == 0 and user is not None and user.name == "Ada"
    elsewhere = verb("serve", "user", "list", "--folder", str(tmp_path / "none"))
    (line,) = error_lines(elsewhere)
    assert elsewhere.returncode == 1 and "no records there" in line
    assert not (tmp_path / "none").exists()


def test_sessions_need_their_user(url: str) -> None:
    engine = prepare(url)
    row = {"digest": b"x" * 32, "user_key": "nobody", "created": 0.0, "seen": 0.0}
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sa.insert(SESSIONS).values(row))
    engine.dispose()
