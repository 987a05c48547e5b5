"""The documentation of the API at /docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.conftest import Site

pytestmark = pytest.mark.browser

SERVICES = Path(__file__).parents[2] / "services"


@pytest.fixture
def docs(context: BrowserContext, site: Site, console_errors: list[str]) -> Page:
    page = context.new_page()
    page.goto(f"{site.url}/docs")
    return page


def test_every_operation_is_described_with_an_example(docs: Page, site: Site) -> None:
    document = docs.request.get(f"{site.url}/openapi.json").json()
    methods = {o["operationId"]: (method, o) for path in document["paths"].values() for method, o in path.items()}
    operations = [operation for _, operation in methods.values()]

    expect(docs.locator("article.operation")).to_have_count(len(operations))
    for operation in operations:
        article = docs.locator(f"#{operation['operationId']}")
        text = article.inner_text()
        assert all(parameter["name"] in text for parameter in operation["parameters"])
        assert all(status in text for status in operation["responses"])
        method = methods[operation["operationId"]][0]
        assert "curl " in text
        # Without a body curl would send a GET.
        assert method != "post" or operation.get("requestBody") or "-X POST" in text
        assert "scope " in text


def test_every_schema_is_described_and_every_link_leads_somewhere(docs: Page, site: Site) -> None:
    document = docs.request.get(f"{site.url}/openapi.json").json()
    missing = docs.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(link => link.hash.slice(1))"
        ".filter(id => !document.getElementById(id))"
    )
    doubled = docs.evaluate(
        "[...document.querySelectorAll('[id]')].map(one => one.id).filter((id, at, all) => all.indexOf(id) !== at)"
    )

    expect(docs.locator("article.schema")).to_have_count(len(document["components"]["schemas"]))
    assert missing == []
    assert doubled == []


def test_a_problems_type_leads_to_its_code(docs: Page, site: Site) -> None:
    problem = docs.request.get(f"{site.url}/v1/images").json()

    docs.goto(site.url + problem["type"])

    expect(docs.locator(f"#{problem['code']}:target")).to_contain_text("No key")


def test_every_code_that_is_raised_is_documented(docs: Page) -> None:
    sources = [path.read_text() for path in SERVICES.rglob("*.py") if not {"cli", "backup"} & set(path.parts)]
    raised = {code for source in sources for code in re.findall(r'\bcode="(\w+)"', source)}

    documented = docs.locator("table.codes tr[id]").evaluate_all("rows => rows.map(row => row.id)")

    assert raised
    assert raised <= set(documented)
