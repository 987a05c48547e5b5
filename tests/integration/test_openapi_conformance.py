"""Requests made from the OpenAPI document: whatever is sent, no answer is a 5xx, and every answer is documented."""

from __future__ import annotations

import re

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from services.api.app import ROUTERS
from services.catalog import keys
from services.catalog.keys import Scope
from tests.integration.conftest import Akin, picture

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

EXAMPLES = 20
# No schema can say that bytes must be a picture, or that exactly one of two members must be there. And what is wrong
# with a request may be mended by the key that is put into it, or lie in a parameter that has no value to be sent.
EXCLUDED = [positive_data_acceptance, negative_data_rejection]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_documented(akin: Akin, mode: GenerationMode) -> None:
    for number in range(6):
        akin.upload(picture(number), str(number), title=f"Item {number}")
    akin.work()
    schema = schemathesis.openapi.from_wsgi("/openapi.json", akin.client.application)
    failures = []

    for operation in (one for router in ROUTERS for one in router.operations):
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", operation.path)
        # A key of its own: one of the operations revokes keys.
        with akin.services.database.transaction() as session:
            secret = keys.create(session, "conformance", list(Scope))

        try:
            _ask(schema[path][operation.method], mode, secret)
        except FailureGroup as failure:
            failures.append(f"{operation.method} {path}: {failure}")

    assert not failures, "\n\n".join(failures)


def _ask(operation: APIOperation, mode: GenerationMode, secret: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        suppress_health_check=list(HealthCheck),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {secret}"}, excluded_checks=EXCLUDED)

    ask()
