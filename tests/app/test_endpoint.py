"""What an address takes is checked against its dataclass; what it gives is JSON; both are described."""

import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from stepscope.app.endpoint import BadRequest, Bound, Call, accept, endpoint, frame, plain, schema


@dataclass(frozen=True)
class Inner:
    """A part."""

    x: Annotated[float, Bound(0, 1)]


@dataclass(frozen=True)
class Query:
    """A request."""

    n: Annotated[int, Bound(1, 10)]
    name: Annotated[str, Bound(1, 5)] = "a"
    many: Annotated[list[Inner], Bound(0, 2)] = field(default_factory=list)
    table: dict[str, float] = field(default_factory=dict)
    kind: Literal["p", "q"] = "p"
    maybe: float | None = None
    flag: bool = False


def test_what_is_right_is_taken():
    given = {"n": "3", "many": [{"x": 0.5}], "table": {"a": 1}, "kind": "q", "maybe": None, "flag": "true"}
    assert accept(Query, given) == Query(3, "a", [Inner(0.5)], {"a": 1.0}, "q", None, True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "'n' is missing"),
        ({"n": 0}, "n must lie between 1 and 10, got 0"),
        ({"n": 2.5}, "n must be a whole number"),
        ({"n": True}, "n must be a whole number"),
        ({"n": "0x3"}, "n must be a whole number"),
        ({"n": "9" * 400}, "n must be a whole number"),
        ({"n": 1, "name": "abcdef"}, "the length of name"),
        ({"n": 1, "name": 5}, "name must be a text"),
        ({"n": 1, "many": {}}, "many must be a list"),
        ({"n": 1, "many": [{"x": 2}]}, "many[0].x must lie between"),
        ({"n": 1, "many": [{"x": float("nan")}]}, "many[0].x must be a finite number"),
        ({"n": 1, "many": [{"x": 0}] * 3}, "the length of many"),
        ({"n": 1, "table": {"a": "b"}}, "table.a must be a finite number"),
        ({"n": 1, "table": {"a" * 81: 1}}, "table must be an object"),
        ({"n": 1, "kind": "r"}, "kind must be one of p, q"),
        ({"n": 1, "flag": "maybe"}, "flag must be true or false"),
        ({"n": 1, "other": 1}, "'other' is not known here; known: n, name"),
        ([], "the request must be an object"),
    ],
)
def test_what_is_wrong_is_named(given: Any, words: str):
    with pytest.raises(BadRequest) as caught:
        accept(Query, given)
    assert words in str(caught.value)


def test_the_schema_says_the_same():
    made = schema(Query)
    assert made["required"] == ["n"]
    assert made["properties"]["n"] == {"type": "integer", "minimum": 1, "maximum": 10}
    assert made["properties"]["name"] == {"type": "string", "minLength": 1, "maxLength": 5}
    assert made["properties"]["many"]["items"]["properties"]["x"]["maximum"] == 1
    assert made["properties"]["kind"] == {"enum": ["p", "q"]}
    assert made["properties"]["maybe"] == {"anyOf": [{"type": "number"}, {"type": "null"}]}
    json.dumps(made)


def test_plain_makes_json():
    made = plain({"a": np.float64(1.5), "b": np.arange(2), "c": float("inf"), "d": Inner(0.5), "e": (1, None)})
    assert made == {"a": 1.5, "b": [0, 1], "c": None, "d": {"x": 0.5}, "e": [1, None]}
    json.dumps(made, allow_nan=False)


def test_a_frame_can_be_taken_apart():
    made = frame({"row": 1, "nothing": float("nan")}, np.array([[1.0, 2.0]], ">f4"))
    size = int.from_bytes(made[:4], "little")
    header = json.loads(made[4 : 4 + size])
    assert header == {"row": 1, "nothing": None, "dtype": "float32", "shape": [1, 2], "bytes": 8}
    assert np.frombuffer(made[4 + size :], "<f4").tolist() == [1.0, 2.0]


def test_an_endpoint_reads_its_annotations():
    @endpoint("GET", "/api/x")
    def look(query: Query, call: Call) -> Inner:
        """Look at it.

        More words.
        """
        return Inner(0.0)

    assert (look.takes, look.gives, look.summary) == (Query, Inner, "Look at it.")


def test_a_call_knows_when_it_is_alone():
    call = Call()
    assert not call.gone
    call.leave()
    assert call.gone
