"""Which second spellings does gputune have, and for whom?

They exist so that a MetaSchedule tutorial runs with `import gputune as tvm`, and nowhere else does
a thing have two names. An alias is a namespace or a name; what it stands for is imported
when used.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

ALIASES: dict[str, str | dict[str, str]] = {
    "tir": {
        "Schedule": "schedule:Schedule",
        "PrimFunc": "ir.nodes:PrimFunc",
        "Var": "ir.nodes:Var",
        "BlockRV": "schedule:BlockRV",
        "ScheduleError": "errors:ScheduleError",
        "schedule.Trace": "schedule:Trace",
        "schedule.BlockRV": "schedule:BlockRV",
        "schedule.LoopRV": "schedule:LoopRV",
    },
    "s_tir": {"Schedule": "schedule:Schedule", "Trace": "schedule:Trace"},
    "nd": {
        "array": "runtime.ndarray:array",
        "empty": "runtime.ndarray:empty",
        "NDArray": "runtime.ndarray:NDArray",
        "cpu": "runtime.ndarray:cpu",
    },
    "cpu": "runtime.ndarray:cpu",
    "cuda": "runtime.ndarray:cuda",
    "compile": "runtime.module:build",
    "TVMError": "errors:GputuneError",
}


def _load(spec: str) -> Any:
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), name)


class _Namespace(SimpleNamespace):
    """The names of an alias that is a namespace, each imported when first used."""

    def __getattr__(self, name: str) -> Any:
        table: dict[str, str] = self.__dict__["_table"]
        if name in table:
            value = _load(table[name])
        else:
            inner = {k[len(name) + 1 :]: v for k, v in table.items() if k.startswith(name + ".")}
            if not inner:
                raise AttributeError(f"this alias has no name {name!r}; it has {sorted(table)}")
            value = _Namespace(_table=inner)
        self.__dict__[name] = value
        return value


def resolve(name: str) -> Any:
    """What an alias stands for."""
    entry = ALIASES[name]
    return _load(entry) if isinstance(entry, str) else _Namespace(_table=entry)
