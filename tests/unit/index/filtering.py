"""Filters for tests, drawn by hypothesis over the metadata that test galleries have."""

from __future__ import annotations

from chatsearch.index.filters import BOUNDS, AllOf, AnyOf, Between, Exists, Filter, Not, OneOf
from hypothesis import strategies as st

FIELDS = ("source", "year", "é\n", "")
TEXTS = ("coco", "flickr", "2019", "2019.5", "-3", "1e2", "1e999", " 7", "07", "NaN", "", "ü")


def filters() -> st.SearchStrategy[Filter]:
    fields = st.sampled_from(FIELDS)
    bounds = st.dictionaries(st.sampled_from(BOUNDS), st.sampled_from([-3, 7, 100.0, 2019, 2019.25]), min_size=1)
    conditions = st.one_of(
        st.builds(OneOf, fields, st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4).map(tuple)),
        st.builds(lambda field, said: Between(field, **said), fields, bounds),
        st.builds(Exists, fields),
    )
    return st.recursive(
        conditions,
        lambda inner: st.one_of(
            st.builds(Not, inner),
            st.builds(AllOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
            st.builds(AnyOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        ),
        max_leaves=5,
    )
