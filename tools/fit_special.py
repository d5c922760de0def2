"""Write inductor's table of Chebyshev coefficients of special functions: python tools/fit_special.py > packages/inductor/src/lamina_inductor/codegen/chebyshev.py

Each fit is a smooth function of t in [-1, 1], interpolated at Chebyshev nodes in 50 digits (mpmath) and cut where a double no longer sees
the coefficients. How the functions are put together from the fits: `codegen/special.py`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import mpmath as mp

mp.mp.dps = 50
NODES = 80
CUT = mp.mpf(2) ** -55


def _ndtri_tail(q: Any) -> Any:
    """x > 0 whose upper tail of the normal distribution is exp(-q*q), by Newton's method on the logarithm."""
    x = mp.sqrt(2) * q
    for _ in range(60):
        tail = mp.erfc(x / mp.sqrt(2)) / 2
        step = (mp.log(tail) + q * q) * tail * mp.sqrt(2 * mp.pi) * mp.exp(x * x / 2)
        x += step
        if abs(step) < mp.mpf(10) ** -40 * x:
            break
    return x


def _middle(y2: Any) -> Any:
    """ndtri(1/2 + y) / y as a function of y squared."""
    y = mp.sqrt(y2)
    return mp.sqrt(2) * mp.erfinv(2 * y) / y


FITS: dict[str, Callable[[Any], Any]] = {
    # exp(-x) I(x) on [0, 8]; exp(-x) sqrt(x) I(x) above
    "i0_low": lambda t: (lambda x: mp.exp(-x) * mp.besseli(0, x))(4 * (t + 1)),
    "i0_high": lambda t: (lambda x: mp.exp(-x) * mp.sqrt(x) * mp.besseli(0, x))(16 / (t + 1)),
    "i1_low": lambda t: (lambda x: mp.exp(-x) * mp.besseli(1, x) / x)(4 * (t + 1)),
    "i1_high": lambda t: (lambda x: mp.exp(-x) * mp.sqrt(x) * mp.besseli(1, x))(16 / (t + 1)),
    # K without its logarithm on (0, 2]; exp(x) sqrt(x) K(x) above
    "k0_low": lambda t: (lambda x: mp.besselk(0, x) + mp.log(x / 2) * mp.besseli(0, x))(mp.sqrt(2 * (t + 1))),
    "k0_high": lambda t: (lambda x: mp.exp(x) * mp.sqrt(x) * mp.besselk(0, x))(4 / (t + 1)),
    "k1_low": lambda t: (lambda x: x * (mp.besselk(1, x) - mp.log(x / 2) * mp.besseli(1, x)))(mp.sqrt(2 * (t + 1))),
    "k1_high": lambda t: (lambda x: mp.exp(x) * mp.sqrt(x) * mp.besselk(1, x))(4 / (t + 1)),
    # (1 + 2x) erfcx(x), t = (x - 3.75) / (x + 3.75): Shepherd and Laframboise 1981
    "erfcx": lambda t: (lambda x: (1 + 2 * x) * mp.exp(x * x) * mp.erfc(x))(mp.mpf(15) / 4 * (1 + t) / (1 - t)),
    # ndtri by y*y, y = p - 1/2, up to 0.425; by q = sqrt(-log p) on [1.6, 5] and [5, 27.4]
    "ndtri_middle": lambda t: _middle(mp.mpf("0.425") ** 2 * (t + 1) / 2),
    "ndtri_tail": lambda t: _ndtri_tail(mp.mpf("3.3") + mp.mpf("1.7") * t),
    "ndtri_far": lambda t: _ndtri_tail(mp.mpf("16.2") + mp.mpf("11.2") * t),
}  # fmt: skip


def coefficients(f: Callable[[Any], Any]) -> list[Any]:
    """Of the Chebyshev series of f, the first one halved."""
    angles = [mp.pi * (2 * k + 1) / (2 * NODES) for k in range(NODES)]
    values = [f(mp.cos(a)) for a in angles]
    found = [2 * mp.fsum(v * mp.cos(j * a) for v, a in zip(values, angles, strict=True)) / NODES for j in range(NODES)]
    found[0] /= 2
    largest = max(map(abs, found))
    while abs(found[-1]) < CUT * largest:
        found.pop()
    return found


def main() -> None:
    print('"""Chebyshev coefficients of special functions. Written by tools/fit_special.py, which says what each is."""\n')
    print('from __future__ import annotations\n\n__all__ = ["COEFFICIENTS"]\n\nCOEFFICIENTS: dict[str, tuple[float, ...]] = {')
    for name, f in FITS.items():
        text = ", ".join(repr(float(c)) for c in coefficients(f))
        print(f'    "{name}": (\n' + textwrap.fill(text, 140, initial_indent=" " * 8, subsequent_indent=" " * 8) + ",\n    ),")
    print("}  # fmt: skip")


if __name__ == "__main__":
    main()
