"""`obj.__dict__` of an object from outside, through the storage of the attribute protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .attributes import instance_lookup, raw_dict
from .control import DELETED, MISSING, native, stands_for, unsupported
from .guards import GuardKind
from .source import InstanceDictSource
from .stores import overlay_store

if TYPE_CHECKING:
    from .session import Capture

__all__ = ["InstanceDict", "instance_dict"]


@stands_for(dict)
class InstanceDict:
    """`obj.__dict__` of an outside object: a live view through the attribute protocol's storage."""

    __slots__ = ("cap", "obj")

    def __init__(self, cap: Capture, obj: Any) -> None:
        self.cap, self.obj = cap, obj

    def _get(self, key: Any) -> Any:
        return instance_lookup(self.cap, self.obj, key, True)

    def _raw(self) -> dict[str, Any]:
        d = raw_dict(self.cap.original_of.get(id(self.obj), self.obj))
        if d is None:
            return {}
        if id(d) in self.cap.shadow_of:
            unsupported("instance-dict", "the dictionary of an object by two ways", hint="use getattr and setattr")
        return d

    def __getitem__(self, key: Any) -> Any:
        found = self._get(key)
        if found is MISSING:
            raise KeyError(key)
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        overlay_store(self.cap, self.obj, key, value)

    def __delitem__(self, key: Any) -> None:
        if self._get(key) is MISSING:
            raise KeyError(key)
        overlay_store(self.cap, self.obj, key, DELETED)

    def __contains__(self, key: Any) -> bool:
        over = self.cap.overlay.get(id(self.obj))
        if over is not None and key in over:
            return over[key] is not DELETED
        d = self._raw()
        src = self.cap.sources.get(id(self.obj))
        if key in d:
            if src is not None:
                self.cap.guard(InstanceDictSource(src), GuardKind.HAS_KEY, key)
            return True
        if src is not None:
            self.cap.guard_instance_missing(src, key)
        return False

    def _keys(self) -> list[Any]:
        d = self._raw()
        src = self.cap.sources.get(id(self.obj))
        if src is not None:
            self.cap.guard(InstanceDictSource(src), GuardKind.DICT_KEYS, tuple(d))
        over = self.cap.overlay.get(id(self.obj), {})
        return [k for k in d if over.get(k) is not DELETED] + [k for k, v in over.items() if k not in d and v is not DELETED]

    def __iter__(self) -> Any:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def get(self, key: Any, default: Any = None) -> Any:
        found = self._get(key)
        return default if found is MISSING else found

    def keys(self) -> Any:
        return dict.fromkeys(self._keys()).keys()

    def values(self) -> Any:
        return self.copy().values()

    def items(self) -> Any:
        return self.copy().items()

    def copy(self) -> dict[Any, Any]:
        return {k: self[k] for k in self._keys()}

    def update(self, *args: Any, **kwargs: Any) -> None:
        for k, v in dict(*args, **kwargs).items():
            self[k] = v

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        if key in self:
            found = self[key]
            del self[key]
            return found
        if default:
            return default[0]
        raise KeyError(key)


def instance_dict(cap: Capture, obj: Any) -> Any:
    """`obj.__dict__`."""
    if id(obj) in cap.sources:
        return InstanceDict(cap, obj)
    return native(object.__getattribute__, obj, "__dict__")  # a `__getattribute__` of the program has been asked before
