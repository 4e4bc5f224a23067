"""Validation of HTTP responses against an OpenAPI document."""

import re
from collections.abc import Callable
from typing import Any

import httpx
from jsonschema import FormatChecker
from openapi_schema_validator import OAS31Validator

JSON = dict[str, Any]


class Document:
    """Replicate's OpenAPI document, used to validate responses."""

    def __init__(self, content: JSON) -> None:
        self._content = _readable(content)
        self._patterns = [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path) for path in content["paths"]
        ]

    def check(self, response: httpx.Response) -> tuple[str, str, int]:
        """Raise AssertionError for a response that is not allowed; return which response it was."""
        method = response.request.method
        path = self._path(response.request.url.path.removeprefix("/v1"))
        operation = self._content["paths"][path].get(method.lower())
        assert operation is not None, f"{method} {path} is not in the document"
        allowed = operation["responses"].get(str(response.status_code))
        if allowed is None:
            assert response.status_code >= 400, f"{method} {path} never answers {response}"
            _check_problem(response)
        elif "content" in allowed:
            kind = response.headers["content-type"]
            assert kind in allowed["content"], f"{kind} is not one of {list(allowed['content'])}"
            schema = allowed["content"][kind].get("schema", {})
            self._validate(response.json(), schema)
        else:
            assert response.content == b""
        return method, path, response.status_code

    def accepts_body(self, method: str, path: str, body: object) -> bool:
        """Return whether the document allows this request body."""
        content = self._content["paths"][path][method.lower()]["requestBody"]["content"]
        return bool(self._validator(content["application/json"]["schema"]).is_valid(body))

    def _path(self, path: str) -> str:
        exact: list[str] = [known for pattern, known in self._patterns if pattern.fullmatch(path)]
        assert exact, f"{path} is not in the document"
        return min(exact, key=lambda known: known.count("{"))

    def _validate(self, answer: object, schema: JSON) -> None:
        errors = [
            f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
            for error in self._validator(schema).iter_errors(answer)
        ]
        assert not errors, errors

    def _validator(self, schema: JSON) -> OAS31Validator:
        root = {**schema, "components": self._content["components"]}
        return OAS31Validator(root, format_checker=_FORMATS)


def _matches(pattern: str) -> Callable[[object], bool]:
    whole = re.compile(pattern)
    return lambda value: not isinstance(value, str) or whole.fullmatch(value) is not None


_FORMATS = FormatChecker(formats=[])
_FORMATS.checks("date-time")(_matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"))
_FORMATS.checks("uri")(_matches(r"[a-z][a-z0-9+.-]*:\S+"))


def _readable(part: Any) -> Any:
    """Convert the document to plain JSON Schema.

    It uses `nullable: true`, which OpenAPI 3.1 has removed, and defines a prediction's version as
    exactly one of a string and the string "hidden", where "hidden" matches both.
    """
    if isinstance(part, list):
        return [_readable(item) for item in part]
    if not isinstance(part, dict):
        return part
    read = {key: _readable(value) for key, value in part.items()}
    if read.pop("nullable", None) is True and isinstance(read.get("type"), str):
        read["type"] = [read["type"], "null"]
    if isinstance(read.get("oneOf"), list):
        read["anyOf"] = read.pop("oneOf")
    return read


def _check_problem(response: httpx.Response) -> None:
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert isinstance(problem["detail"], str)
    assert problem["status"] == response.status_code
    assert isinstance(problem.get("title", ""), str)
