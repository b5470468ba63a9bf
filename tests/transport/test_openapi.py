"""The OpenAPI document says what the API does: schemathesis holds the one against the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from gateway.api_calls import CALLS, PREFIX, STATUSES
from gateway.api_keys import SCOPES
from gateway.errors import REQUEST_CODES
from gateway.openapi import build_openapi
from tests.gateway_process import GatewayProcess, run

#: Examples of each call and mode: more find no more here, and take longer.
EXAMPLES = 40
#: Fields with rules that no schema can tell, by call.
BEYOND_SCHEMAS = {
    "mint_session": {"attributes", "attributes.name"},
    "list_players": {"cursor"},
    "ban_player": {"reason", "until"},
    "send_message": {"room"},
    "get_room": {"cursor", "room"},
    "add_member": {"room"},
    "remove_member": {"room"},
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("openapi")
    variables = {"GATEWAY_API_REQUESTS_PER_SECOND": "0", "GATEWAY_API_ATTEMPTS_PER_MINUTE": "0"}
    with GatewayProcess(folder, variables=variables) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def key(gateway: GatewayProcess) -> str:
    done = run("api-keys", "add", "fuzz", *SCOPES, cwd=gateway.cwd)
    assert done.returncode == 0
    return done.stdout.strip()


def document(gateway: GatewayProcess) -> dict[str, Any]:
    status, text = gateway.get(f"{PREFIX}/openapi.json")
    assert status == 200
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_document_is_one_of_openapi_3_1(gateway: GatewayProcess) -> None:
    served = document(gateway)
    OpenAPIV31SpecValidator(served).validate()
    assert served == json.loads(json.dumps(build_openapi(served["info"]["version"])))


def test_every_call_is_in_it_and_needs_a_key(gateway: GatewayProcess) -> None:
    served = document(gateway)
    operations = {
        (method.upper(), path): operation
        for path, methods in served["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == {(call.method, call.path) for call in CALLS}
    assert served["security"] == [{"key": []}]
    for operation in operations.values():
        assert "security" not in operation
        assert {"200", "401", "403", "429", "503"} <= set(operation["responses"])


def test_every_code_has_a_status() -> None:
    assert set(STATUSES) >= REQUEST_CODES
    for call in CALLS:
        assert set(call.refusals) <= set(STATUSES)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_calls_do_what_the_document_says(
    gateway: GatewayProcess, key: str, call: Any, mode: GenerationMode
) -> None:
    """What fits the document is taken, anything else refused, and all answers fit it, too."""
    schema = schemathesis.openapi.from_dict(document(gateway))
    schema.config.update(base_url=gateway.url.rstrip("/") + PREFIX)
    operation = schema[call.path][call.method]
    seen: set[int] = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        response = case.call(headers={"Authorization": f"Bearer {key}"})
        seen.add(response.status_code)
        beyond = response.status_code in {400, 413} and (
            response.json().get("field") in BEYOND_SCHEMAS.get(call.name, ())
        )
        excluded = [positive_data_acceptance] if beyond else []
        case.validate_response(response, excluded_checks=excluded)

    check()
    assert seen
    assert not {status for status in seen if status >= 500}
