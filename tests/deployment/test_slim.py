"""What is taken out of the image's libraries is what nothing loads, and what is missed is told."""

import shutil
import struct
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

from deploy import imports, slim


def library(module: str) -> Path:
    found = util.find_spec(module)
    assert found is not None and found.origin is not None
    return Path(found.origin)


@pytest.mark.parametrize("module", ["bytewax._bytewax", "cryptography.hazmat.bindings._rust", "yaml._yaml"])
def test_a_stripped_library_loads_and_keeps_byte_by_byte_what_is_loaded(module: str, tmp_path: Path) -> None:
    original = library(module).read_bytes()
    made = slim.stripped(original)
    assert len(made) < len(original) * 0.9
    assert made[: slim._HEADER - 24] == original[: slim._HEADER - 24]
    assert made[slim._HEADER :] == original[slim._HEADER : len(made)]
    assert slim.stripped(made) == made
    place = tmp_path / library(module).name
    place.write_bytes(made)
    name = module.rpartition(".")[2]
    load = f"from importlib import util; made = util.spec_from_file_location({name!r}, {str(place)!r}); made.loader.create_module(made)"
    subprocess.run([sys.executable, "-c", load], check=True, timeout=60)


def test_all_that_a_program_header_names_is_kept() -> None:
    headers = [(0x1000, 0x200), (0x3000, 0x80), (0x2000, 0x10)]
    said = b"".join(struct.pack("<IIQQQQQQ", 1, 4, offset, 0, 0, size, size, 1) for offset, size in headers)
    elf = (
        b"\x7fELF\x02\x01" + bytes(26) + struct.pack("<QQIHHHHHH", 64, 0x4000, 0, 64, 56, len(headers), 64, 9, 8) + said
    )
    library = elf.ljust(0x5000, b"x")
    assert slim.loaded(library) == 0x3080
    assert len(slim.stripped(library)) == 0x3080


def test_what_is_left_out_goes_and_what_must_stay_as_it_was_built_stays(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("numpy/tests/test_one.py", "numpy/core.pyi", "numpy/core.py", "pyarrow/libarrow_flight.so.2600"):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text("x")
    for package in ("psycopg_binary", "yaml"):
        (packages / package).mkdir()
        shutil.copy(library("yaml._yaml"), packages / package / "a.so")
    slim.main(tmp_path)
    left = {str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file()}
    assert left == {"numpy/core.py", "psycopg_binary/a.so", "yaml/a.so"}
    built = library("yaml._yaml").stat().st_size
    assert (packages / "psycopg_binary" / "a.so").stat().st_size == built > (packages / "yaml" / "a.so").stat().st_size


def test_an_import_is_found_wherever_it_stands() -> None:
    source = "import a.b as c\nfrom . import near\ndef f():\n    from d.e import g\n    if g:\n        import h, i.j\n"
    assert imports.named(source) == {"a.b", "d.e", "h", "i.j"}


def test_a_module_that_was_taken_out_of_a_package_is_missed_and_one_that_no_package_brought_is_let_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    (packages / "bifrost").mkdir(parents=True)
    (packages / "bifrost" / "deploy_probe.py").write_text("def f():\n    import nobody_brought_this\n    import yaml\n")
    monkeypatch.setattr(imports, "OURS", ("bifrost",))
    monkeypatch.setitem(sys.modules, "bifrost.deploy_probe", sys)  # it is not in the installed package
    assert imports.main(packages, some=True) == 0
    assert imports.main(packages, some=False) == 1
    assert {"yaml", "pyarrow.compute"} <= imports.brought()
    monkeypatch.setattr(imports, "brought", lambda: {"nobody_brought_this"})
    assert imports.main(packages, some=True) == 1
    assert "cannot import nobody_brought_this" in capsys.readouterr().out
