"""What is wrong with a value that pydantic refused, in words that say what it must be.

Rule: one table for the configuration, the API and the control channel; pydantic's own
words are shown only for a type of error that no field of ours can have.
"""

from collections.abc import Mapping
from typing import Any

_WHOLE, _NUMBER, _FLAG, _TEXT, _LIST = (
    "must be a whole number",
    "must be a number",
    "must be true or false",
    "must be a text",
    "must be a list",
)
_PROBLEMS = {
    "missing": "is missing",
    "value_error": "{error}",
    "json_invalid": "must be JSON: {error}",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), _WHOLE),
    "int_parsing_size": "must have fewer digits",
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), _NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), _FLAG),
    **dict.fromkeys(("string_type", "string_unicode", "path_type"), _TEXT),
    **dict.fromkeys(("list_type", "tuple_type"), _LIST),
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must have {min_length} or more characters",
    "string_too_long": "must have {max_length} or fewer characters",
    "too_short": "must have {min_length} or more items",
    "too_long": "must have {max_length} or fewer items",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    **dict.fromkeys(("literal_error", "enum"), "must be {expected}"),
    "ip_v4_address": "must be an IPv4 address, as 10.0.0.12",
    "ip_v6_address": "must be an IPv6 address, as 2001:db8::1",
    "ip_v4_network": "must be an IPv4 network without host bits, as 10.0.0.0/24",
    "ip_v6_network": "must be an IPv6 network without host bits, as 2001:db8::/32",
}
_OBJECTS = {"dict_type", "mapping_type", "model_type", "model_attributes_type"}


def problem_of(item: Mapping[str, Any], *, table: str = "an object") -> str:
    """Of one of pydantic's ``errors()``, as ``must be at most 65535``; ``table``: what has keys."""
    if item["type"] in _OBJECTS:
        return f"must be {table}"
    problem = _PROBLEMS.get(item["type"])
    return problem.format_map(item.get("ctx", {})) if problem else str(item["msg"])
