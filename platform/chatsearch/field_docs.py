"""What is said of the keys of a configuration: read from its source, and only when somebody asks for help."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from chatsearch.config import Config, known_keys


def key_summaries(config: Config) -> dict[str, str]:
    """All dotted keys that ``--set`` accepts, each with the first sentence of its docstring, or nothing."""
    return {
        key: field_summaries(type(_owner(config, key))).get(key.rpartition(".")[2], "") for key in known_keys(config)
    }


def field_summaries(kind: type[Config]) -> Mapping[str, str]:
    """First sentences of the docstrings below the fields of a configuration class and those it extends."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if cls is not Config and issubclass(cls, Config):
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
            assert isinstance(definition, ast.ClassDef)
            for field, below in pairwise(definition.body):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        found[name] = _first_sentence(text)
    return found


def _owner(config: Config, key: str) -> Any:
    owner: Any = config
    for part in key.split(".")[:-1]:
        owner = owner[int(part)] if part.isdecimal() else getattr(owner, part)
    return owner


def _first_sentence(text: str) -> str:
    """On one line and without mark-up."""
    return re.split(r"(?<=\.) ", " ".join(text.replace("``", "").split()))[0].removesuffix(".")
