"""The filter language: what it means for one item, what it means for columns, and what it refuses."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from chatsearch.errors import InputError, LimitExceededError
from chatsearch.index.columns import ItemColumns
from chatsearch.index.filter_parsing import MAX_CONDITIONS, MAX_DEPTH, MAX_TEXT_CHARS, MAX_TEXTS, parse_filter
from chatsearch.index.filters import (
    AllOf,
    AnyOf,
    Between,
    Exists,
    Filter,
    Not,
    OneOf,
    check_fields,
    check_filter,
    number_of,
)
from chatsearch.index.items import ItemTable, read_items, write_items
from chatsearch.types import GalleryItem
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.index.filtering import FIELDS, TEXTS, filters

METADATA = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(TEXTS))


def table(metadata: list[dict[str, str]], path: Path) -> ItemTable:
    write_items(str(path), [GalleryItem(f"i{n}", f"h{n}", held) for n, held in enumerate(metadata)])
    return read_items(str(path))


def matching(filter: Filter, metadata: list[dict[str, str]]) -> list[bool]:
    return [filter.matches(held) for held in metadata]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('{"field": "source", "equals": "coco"}', "ac"),
        ('{"field": "source", "in": ["coco", "flickr"]}', "abc"),
        ('{"field": "year", "at_least": 2019}', "b"),
        ('{"field": "year", "above": 2018, "below": 2019.5}', "b"),
        ('{"field": "year", "at_most": 2018}', "a"),
        ('{"field": "year", "exists": true}', "abc"),
        ('{"field": "year", "exists": false}', "d"),
        ('{"not": {"field": "source", "equals": "coco"}}', "bd"),
        ('{"not": {"field": "year", "at_least": 0}}', "cd"),
        ('{"all": [{"field": "source", "in": ["coco", "flickr"]}, {"field": "year", "at_least": 2019}]}', "b"),
        ('{"any": [{"field": "year", "at_least": 2019}, {"field": "year", "equals": "unknown"}]}', "bc"),
    ],
)
def test_what_is_said_is_what_is_found(said: str, found: str, tmp_path) -> None:
    metadata = [
        {"source": "coco", "year": "2018"},
        {"source": "flickr", "year": "2019"},
        {"source": "coco", "year": "unknown"},
        {},
    ]
    filter = parse_filter(json.loads(said))
    names = np.array(list("abcd"))
    assert "".join(names[matching(filter, metadata)]) == found
    assert "".join(names[filter.mask_N(table(metadata, tmp_path / "items").columns())]) == found


@settings(max_examples=150, deadline=None)
@given(metadata=st.lists(METADATA, max_size=12), filter=filters())
def test_columns_hold_what_the_items_hold(tmp_path_factory, metadata: list[dict[str, str]], filter: Filter) -> None:
    """Rows of a table, and of a list that has grown meanwhile."""
    found = matching(filter, metadata)
    assert filter.mask_N(table(metadata, tmp_path_factory.getbasetemp() / "columns").columns()).tolist() == found
    items = [GalleryItem(f"i{n}", "h", held) for n, held in enumerate(metadata)]
    growing = ItemColumns(items)
    half = growing.first(len(items) // 2)
    assert filter.mask_N(half).tolist() == found[: len(items) // 2]
    assert filter.mask_N(growing.first(len(items))).tolist() == found
    assert filter.mask_N(half).tolist() == found[: len(items) // 2], "rows that come later change nothing"


def test_rows_that_arrow_refuses_are_read_all_the_same(tmp_path) -> None:
    """Half of a surrogate pair, and values that are no texts: other programs may have written them."""
    metadata = [{"source": "coco", "half": "\ud800"}, {"source": "flickr", "year": 2019}, {"source": None}, {}]
    columns = table(metadata, tmp_path / "items").columns()  # type: ignore[arg-type]
    for filter in (
        OneOf("source", ("coco",)),
        Exists("source"),
        Exists("half"),
        Exists("year"),
        Between("year", at_least=0),
        OneOf("year", ("2019",)),
    ):
        assert filter.mask_N(columns).tolist() == matching(filter, metadata), filter  # type: ignore[arg-type]


def test_long_rows_and_no_rows_are_read(tmp_path) -> None:
    metadata = [{"a": "x" * 3_000_000, "b": "1"}, {"b": "2"}]
    assert OneOf("b", ("2",)).mask_N(table(metadata, tmp_path / "long").columns()).tolist() == [False, True]
    assert Not(Exists("b")).mask_N(table([], tmp_path / "none").columns()).tolist() == []


@pytest.mark.parametrize("num_texts", [255, 256, 70_000])
def test_many_different_texts_are_told_apart(tmp_path, num_texts: int) -> None:
    columns = table([{"n": str(n)} for n in range(num_texts)], tmp_path / "items").columns()
    last = num_texts - 1
    assert np.flatnonzero(OneOf("n", ("0", str(last))).mask_N(columns)).tolist() == [0, last]
    assert np.flatnonzero(Between("n", above=last - 2).mask_N(columns)).tolist() == [last - 1, last]
    assert Exists("n").mask_N(columns).all()


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("-3.5", -3.5), ("07", 7), ("1e2", 100), ("9007199254740993", 9007199254740992)],
)
def test_numbers_are_decimals(text: str, number: float) -> None:
    assert number_of(text) == number


@pytest.mark.parametrize("text", ["", " 7", "7 ", "+7", "1_000", "NaN", "inf", "0x10", "٣", "1e999", "7\n", None, 7])
def test_other_texts_are_no_numbers(text: object) -> None:
    assert math.isnan(number_of(text))


def test_equal_filters_are_one_key_and_travel() -> None:
    said = {"all": [{"field": "year", "at_least": 2019}, {"not": {"field": "a", "in": ["x", "y"]}}]}
    one, other = parse_filter(said), parse_filter(said)
    assert {one: 1}[other] == 1
    assert pickle.loads(pickle.dumps(one)) == other  # noqa: S301 -- our own bytes
    assert one == AllOf((Between("year", at_least=2019.0), Not(OneOf("a", ("x", "y")))))
    assert one.fields() == {"year", "a"}


def nested(depth: int) -> dict[str, object]:
    filter: dict[str, object] = {"field": "a", "exists": True}
    for _ in range(depth - 1):
        filter = {"not": filter}
    return filter


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("source", "JSON object"),
        ([], "JSON object"),
        (None, "JSON object"),
        ({}, "has one of all, any, not alone"),
        ({"al": []}, "Unknown filter operator 'al'.*'all'"),
        ({5: []}, "Unknown filter operator '5'"),
        ({"field": "year", "gte": 3}, "Unknown filter operator 'gte'"),
        ({"field": "year", "at_lest": 3}, "Did you mean 'at_least'"),
        ({"all": []}, "'all' has no condition"),
        ({"any": {"field": "a", "exists": True}}, "'any' takes a list"),
        ({"all": ["a"]}, "JSON object.*got 'a'"),
        ({"all": [{"field": "a", "exists": True}], "not": {}}, "alone"),
        ({"equals": "x"}, "has one of all, any, not alone"),
        ({"field": "a"}, "nothing to compare with"),
        ({"field": "a", "all": []}, "has all; give one of"),
        ({"field": "a", "equals": "x", "in": ["y"]}, "has equals, in; give one of"),
        ({"field": "a", "equals": "x", "below": 3}, "has equals, below; give one of"),
        ({"field": 3, "equals": "x"}, "names the field 3, which is no text"),
        ({"field": "a", "equals": 2019}, "compares 2019, which is no text.*write it as '2019'"),
        ({"field": "a", "equals": None}, "compares None"),
        ({"field": "a", "in": "coco"}, "'in' takes a list; got 'coco'"),
        ({"field": "a", "in": []}, "names no text"),
        ({"field": "a", "in": ["x", 5]}, "compares 5"),
        ({"field": "a", "equals": "\ud800"}, "not valid Unicode"),
        ({"field": "\ud800", "equals": "x"}, "not valid Unicode"),
        ({"field": "a", "at_least": "2019"}, "at_least '2019'; bounds are finite numbers"),
        ({"field": "a", "below": True}, "below True"),
        ({"field": "a", "below": None}, "below null"),
        ({"field": "a", "above": math.nan}, "above nan"),
        ({"field": "a", "above": 10**400}, "beyond 64-bit floats"),
        ({"field": "a", "exists": "yes"}, "'exists' of field 'a' is 'yes'; it is true or false"),
    ],
)
def test_what_is_no_filter_is_named(said: object, names: str) -> None:
    with pytest.raises(InputError, match=f"(?s){names}"):
        parse_filter(said)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        (nested(MAX_DEPTH + 1), f"nested {MAX_DEPTH + 1} or more; at most {MAX_DEPTH}"),
        (nested(900), f"at most {MAX_DEPTH}"),
        ({"any": [{"field": "a", "exists": True}] * MAX_CONDITIONS}, f"at most {MAX_CONDITIONS}"),
        ({"field": "a", "in": ["x"] * MAX_TEXTS}, f"more than {MAX_TEXTS} texts"),
        ({"field": "a", "equals": "x" * (MAX_TEXT_CHARS + 1)}, f"{MAX_TEXT_CHARS + 1} characters"),
    ],
)
def test_filters_have_limits(said: object, names: str) -> None:
    with pytest.raises(LimitExceededError, match=names):
        parse_filter(said)


def test_the_largest_filter_is_taken() -> None:
    assert parse_filter(nested(MAX_DEPTH)).matches({"a": ""}) == (MAX_DEPTH % 2 == 1)
    texts = [str(n) for n in range(MAX_TEXTS - 1)]
    assert parse_filter({"field": "a", "in": texts}).matches({"a": texts[-1]})


def test_an_unknown_field_is_named_with_those_that_it_may_mean() -> None:
    filter = parse_filter({"any": [{"field": "year", "exists": True}, {"field": "sorce", "equals": "coco"}]})
    with pytest.raises(InputError, match=r"Unknown metadata field 'sorce'. Did you mean 'source'.*No item"):
        check_fields(filter, {"source", "year"})
    with pytest.raises(InputError, match="Known: none"):
        check_fields(filter, ())
    check_fields(filter, {"sorce", "year"})
    check_fields(None, ())


def test_what_was_not_parsed_is_refused() -> None:
    with pytest.raises(InputError, match=r"of type dict; make one with .*parse_filter"):
        check_filter({"field": "a", "exists": True})
    with pytest.raises(InputError, match="is no filter"):
        AnyOf(({"field": "a"},))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no bound"):
        Between("a")
    with pytest.raises(InputError, match="give at least one"):
        OneOf("a", "coco")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give at least one"):
        AllOf([Exists("a")])  # type: ignore[arg-type]
