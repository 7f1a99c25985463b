"""The JSON Schema of `parity.json`, made from the record's own classes: `python -m harness.record.schema`.

In: nothing. Out: JSON on stdout, kept as `docs/parity.schema.json`.
"""

from __future__ import annotations

import json

from harness.record.record import FIRST_FAULT, SCHEMA_VERSION, Record


def record_schema() -> str:
    """JSON Schema (2020-12) text. Keys that a later version adds are allowed, as the record itself allows them."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Record.model_json_schema(by_alias=True)}
    schema["title"] = f"Edge Parity record, schema {SCHEMA_VERSION}"
    keys = {}
    for key, value in schema["properties"].items():
        if key == "faults":
            first = {"anyOf": [{"$ref": "#/$defs/Fault"}, {"type": "null"}], "default": None}
            keys[FIRST_FAULT] = {**first, "description": "The first of `faults`, for readers; null without any."}
        keys[key] = value
    return json.dumps({**schema, "properties": keys}, indent=1) + "\n"


if __name__ == "__main__":
    print(record_schema(), end="")
