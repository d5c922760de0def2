"""When capture itself fails: a report with the bytecode and one warning, and the call runs eagerly; raised under `LAMINA_STRICT=1`."""

from __future__ import annotations

import dis
import io
import types
from typing import Any

from lamina_dynshape.support.reports import describe_inputs, report_failure
from lamina_dynshape.support.verifylevel import strict as is_strict

__all__ = ["is_strict", "report_capture_failure"]


def report_capture_failure(code: types.CodeType, slots: tuple[Any, ...], error: BaseException) -> None:
    """Count, write a report, warn with its path."""
    listing = io.StringIO()
    dis.dis(code, file=listing, depth=0)
    where = f"while capturing {code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"
    sections = {"arguments": describe_inputs(slots, code.co_varnames), "bytecode": listing.getvalue()}
    report_failure(where, error, sections, stacklevel=5)
