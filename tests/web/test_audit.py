"""The audit: a chain that tells what was changed in it, and that is in nobody's way."""

import json
import resource
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bifrost.cli import app
from tests.command_in_process import quiet
from tests.web.served import PASSWORD, PLENTY, served
from web.access.accounts import utc_now
from web.access.audit import FILE, Audit, verify

__all__ = ["quiet"]


def filled(directory: Path, entries: int = 20, **options: int) -> Audit:
    audit = Audit(directory, **options)
    for number in range(entries):
        audit.note("ann", f"POST /api/thing/{number}", "10.0.0.1", "done", utc_now())
    return audit


@pytest.mark.threat(27)
def test_a_line_that_was_changed_taken_out_or_moved_breaks_the_chain(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    assert verify(tmp_path).entries == 20
    entry = json.loads(lines[7])
    wrong = {
        "changed": [*lines[:7], lines[7].replace(b"ann", b"bob"), *lines[8:]],
        "taken out": [*lines[:7], *lines[8:]],
        "moved": [*lines[:7], lines[8], lines[7], *lines[9:]],
        "added": [*lines[:7], json.dumps(entry | {"what": "nothing"}).encode() + b"\n", *lines[7:]],
        "nonsense": [*lines[:7], b"nonsense\n", *lines[7:]],
        "no mapping": [*lines[:7], b"[1]\n", *lines[7:]],
    }
    for how, others in wrong.items():
        path.write_bytes(b"".join(others))
        verdict = verify(tmp_path)
        assert verdict.broken is not None, how
        assert (verdict.broken.file, verdict.broken.line, verdict.entries) == (FILE, 8, 7), how


@pytest.mark.threat(27)
def test_files_have_a_quota_and_the_chain_goes_through_them(tmp_path: Path) -> None:
    audit = filled(tmp_path, 200, file_bytes=2_000, files=4)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) <= 4
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4 * 2_500
    verdict = verify(tmp_path)
    assert verdict.broken is None
    total, newest = audit.newest(0, 3)
    assert total == verdict.entries
    assert [entry["number"] for entry in newest] == [200, 199, 198]
    assert audit.newest(2, 1)[1][0]["number"] == 198
    assert audit.newest(10_000, 5)[1] == []
    Audit(tmp_path).note("bob", "after a start", "10.0.0.1", "done", utc_now())
    audit.note("ann", "beside another process", "10.0.0.1", "done", utc_now())
    assert verify(tmp_path).broken is None
    (tmp_path / names[1]).write_bytes(b"")
    assert verify(tmp_path).broken is not None


@pytest.mark.threat(27)
def test_a_line_that_a_crash_cut_off_is_left_out_and_the_chain_goes_on(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"number": 4, "wh')
    filled(tmp_path, 2)
    assert verify(tmp_path).broken is None
    assert verify(tmp_path).entries == 5


@pytest.mark.threat(27)
def test_a_disk_that_is_full_costs_an_entry_and_stops_nothing(tmp_path: Path) -> None:
    audit = filled(tmp_path, 3)
    size = (tmp_path / FILE).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (size + 10, hard)
    )  # a write fails in the midst of a line, as on a full disk
    try:
        audit.note("ann", "POST /api/thing", "10.0.0.1", "done", utc_now())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert audit.missed == 1
    assert (tmp_path / FILE).stat().st_size == size
    audit.note("ann", "POST /api/thing", "10.0.0.1", "done", utc_now())
    assert verify(tmp_path) == verify(tmp_path)
    assert (verify(tmp_path).entries, verify(tmp_path).broken) == (4, None)


@pytest.mark.threat(27)
def test_every_change_and_every_login_is_in_the_audit_and_looking_is_not(tmp_path: Path) -> None:
    with served(tmp_path, PLENTY) as gateway:
        admin = gateway.user("admin")
        viewer = gateway.user("viewer")
        gateway.client().log_in("admin", "wrong password")
        gateway.client().log_in("nobody", "wrong password")
        gateway.client().log_in("", "wrong password")
        admin.ask("POST", "/api/users", {"name": "ann", "password": PASSWORD, "role": "operator"})
        admin.ask("POST", "/api/users", {"name": "ann", "password": PASSWORD})
        viewer.ask("DELETE", "/api/users/ann")
        admin.get("/api/status")
        gateway.client().ask("DELETE", "/api/users/ann")  # unknown, refused: not worth an entry
        page = admin.get("/api/audit?limit=500").json
        said = [(entry["who"], entry["what"], entry["result"]) for entry in reversed(page["entries"])]
        assert said == [
            ("admin", "POST /api/session", "done"),
            ("viewer", "POST /api/session", "done"),
            ("admin", "POST /api/session", "refused 401"),
            ("nobody", "POST /api/session", "refused 401"),
            ("nobody", "POST /api/session", "refused 401"),
            ("admin", "POST /api/users", "done"),
            ("admin", "POST /api/users", "refused 409"),
            ("viewer", "DELETE /api/users/ann", "refused 403"),
        ]
        made = page["entries"][2]
        assert (made["user"], made["role"], made["from"]) == ("ann", "operator", "127.0.0.1")
        assert PASSWORD not in (gateway.directory / FILE).read_text()
        assert viewer.get("/api/audit").status == 403


def test_the_verbs_look_after_users_beside_a_running_gateway(tmp_path: Path) -> None:
    with served(tmp_path, PLENTY) as gateway:
        config = str(tmp_path / "gateway.yaml")

        def verb(*words: str, said: str = "", code: int = 0) -> str:
            result = CliRunner().invoke(app, [*words, "-c", config], input=said)
            assert result.exit_code == code, result.output
            return result.output

        token = verb("users", "setup-token").strip()
        order = {"token": token, "user": "ann", "password": PASSWORD}
        assert gateway.client().ask("POST", "/api/setup", order).status == 200
        assert "there are users already" in verb("users", "setup-token", code=1)
        verb("users", "add", "bob", "--role", "operator", said=PASSWORD + "\n")
        bob = gateway.client()
        assert bob.log_in("bob").json["role"] == "operator"
        made = verb("users", "password", "bob", "--generate").split(": ")[1].strip()
        assert gateway.client().log_in("bob", made).status == 200
        verb("users", "role", "bob", "--role", "viewer")
        assert bob.get("/api/session").json["role"] == "viewer"
        assert "bob" in verb("users", "list")
        text = verb("users", "token", "scada", "--role", "viewer").strip()
        scada = gateway.client(authorization=f"Bearer {text}")
        assert scada.get("/api/status").status == 200
        listed = json.loads(verb("users", "list", "--json"))
        verb("users", "remove", listed["tokens"][0]["id"])
        assert scada.get("/api/status").status == 401
        verb("users", "remove", "bob")
        assert "last administrator" in verb("users", "remove", "ann", code=1)
        assert "12 to 256 characters" in verb("users", "add", "eve", said="short\n", code=1)
        assert "hold together" in verb("audit", "verify")
        entries = gateway.cli().get("/api/audit").json["entries"]
        assert {"add the operator bob", "remove bob", "POST /api/setup"} <= {entry["what"] for entry in entries}
        path = gateway.directory / FILE
        path.write_text(path.read_text().replace("add the operator bob", "add the operator eve"))
        assert "was changed" in verb("audit", "verify", code=1)
        assert json.loads(verb("audit", "verify", "--json", code=1))["broken"]["line"] > 1
