"""Requests made from the OpenAPI document: whatever is sent, no answer is a 5xx, and every answer is documented."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import pytest
import schemathesis
from schemathesis import AuthContext, Case, GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.config import HealthCheck
from schemathesis.engine import events, from_schema
from schemathesis.schemas import BaseSchema

from services import deletion
from services.catalog import keys
from services.catalog.keys import Scope
from tests.integration.conftest import Akin, picture, served

ITEMS = 12
EXAMPLES = 20
# No schema can say that bytes must be a picture, or that an item must be there.
EXCLUDED = {"positive_data_acceptance"}
PHASES = {"coverage", "fuzzing", "stateful"}


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_every_answer_is_documented(akin: Akin) -> None:
    for number in range(ITEMS):
        akin.upload(picture(number), str(number), title=f"Item {number}")
    akin.work()
    checked: dict[str, set[str]] = defaultdict(set)
    asked: dict[str, set[str]] = defaultdict(set)
    failures: list[str] = []

    with served(akin, deletion.advance) as url:
        schema = _schema(akin, url)
        for event in from_schema(schema).execute():
            if isinstance(event, events.FatalError):
                raise event.exception
            if isinstance(event, events.NonFatalError):
                failures.append(f"{event.label}: {event.value!r}")
            if isinstance(event, events.ScenarioFinished):
                asked[event.phase.value] |= {node.value.operation.label for node in event.recorder.cases.values()}
                for nodes in event.recorder.checks.values():
                    checked[event.phase.value] |= {node.name for node in nodes}
                    failures += [_described(node.failure_info) for node in nodes if node.failure_info]

    assert not failures, "\n\n".join([f"seed {schema.config.seed}", *dict.fromkeys(failures)])
    # The tool passes over what it cannot do.
    documented = {operation.ok().label for operation in schema.get_all_operations()}
    assert asked["coverage"] == asked["fuzzing"] == documented
    assert checked == dict.fromkeys(PHASES, set(CHECKS.get_all_names()) - EXCLUDED)


@pytest.mark.parametrize("query", ["limit=2&limit=3", "limit=2&limit=2", "catalog=default&catalog=other"])
def test_a_parameter_that_is_sent_twice_is_refused(akin: Akin, query: str) -> None:
    """The tool does not ask this: servers often take one of the two."""
    response = akin.call("GET", f"/v1/items?{query}")

    assert (response.status_code, response.json["code"]) == (422, "invalid_request")
    assert response.json["detail"] == f"{query.partition('=')[0]}: was sent 2 times"


@pytest.mark.parametrize("query", ["limit=", "limit=ten", "limit=0", "cursor=-1", "unknown=1", "unknown="])
def test_a_parameter_that_is_unknown_or_none_is_refused(akin: Akin, query: str) -> None:
    response = akin.call("GET", f"/v1/items?{query}")

    assert response.status_code == 422
    assert [error["field"] for error in response.json["errors"]] == [query.partition("=")[0]]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "PATCH"])
def test_look_alikes_of_an_item_are_only_read(akin: Akin, method: str) -> None:
    """Ids of items may have slashes, but `1/similar` is none."""
    response = akin.call(method, "/v1/items/1/similar")

    assert response.status_code == 405
    assert {name.strip() for name in response.headers["Allow"].split(",")} == {"GET", "HEAD", "OPTIONS"}


def _schema(akin: Akin, url: str) -> BaseSchema:
    """The document of a running service, what to make of it, and a key for each operation: one of them revokes keys."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    config = schema.config
    config.continue_on_failure = True
    config.suppress_health_check = [HealthCheck.all]
    config.generation.update(max_examples=EXAMPLES)
    # What is refused leads nowhere; what is made, listed and deleted has something to follow.
    config.phases.stateful.generation.update(modes=[GenerationMode.POSITIVE])
    config.checks.update(excluded_check_names=list(EXCLUDED))

    @cache
    def key_for(operation: str) -> str:
        with akin.services.database.transaction() as session:
            return keys.create(session, operation, list(Scope))

    # Not a header of every request: it would mend those whose key is left out or spoilt on purpose.
    @schema.auth(refresh_interval=None)
    class Key:
        def get(self, case: Case[Any], _: AuthContext) -> str:
            return key_for(case.operation.label)

        def set(self, case: Case[Any], data: str, _: AuthContext) -> None:
            case.headers["Authorization"] = f"Bearer {data}"

    return schema


def _described(found: Any) -> str:
    return f"{found.failure.operation}: {found.failure.title}\n{found.failure.message}\n{found.code_sample}"
