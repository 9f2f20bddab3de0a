"""The pages about the API say what the API is."""

import re
from pathlib import Path

from config.loader import load
from web.access.roles import MATRIX, need_of
from web.reference import openapi, page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_the_api_is_fresh_and_tells_every_route() -> None:
    found = openapi()
    written = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    assert page(found) == written, "run `python -m web.reference`"
    assert found["openapi"].startswith("3.1")
    for path, item in found["paths"].items():
        for method, operation in item.items():
            assert f"### `{method.upper()} {path}`" in written
            assert operation["x-role"] == need_of(method.upper(), path)
            assert {"400", "421", "429", "500"} <= set(operation["responses"])
            assert operation.get("summary")
            if operation["x-role"] not in ("open", "metrics"):
                assert {"401", "403"} <= set(operation["responses"])


def test_the_matrix_names_no_route_that_is_not_there() -> None:
    found = openapi()
    there = {
        (method.upper(), re.sub(r"\{[^}]+\}", "{}", path)) for path, item in found["paths"].items() for method in item
    }
    named = {(route.split()[0], re.sub(r"\{[^}]+\}", "{}", route.split()[1])) for route in MATRIX}
    assert named - there <= NOT_OF_THE_API


NOT_OF_THE_API = {("GET", "/openapi.json"), ("GET", "/"), ("GET", "/icon.svg"), ("GET", "/assets/{}")}


def test_the_example_of_the_security_page_loads(tmp_path: Path) -> None:
    found = re.findall(r"```yaml\n(.*?)```", (DOCS / "security.md").read_text(encoding="utf-8"), re.DOTALL)
    example = next(one for one in found if "cert_file" in one and "oidc" not in one)
    path = tmp_path / "gateway.yaml"
    path.write_text(example)
    loaded = load(path)
    assert loaded.web.tls is not None
    assert loaded.web.tls.cert_file == tmp_path / "certs" / "gateway.pem"
