"""kernel.expressions: integer expressions of test cases. In: text, names. Out: an integer, or ExpressionError.

Arithmetic of integers only: names, + - * // % << >> & | ^ ~, min, max. Nothing else is evaluated.
"""

import ast
from collections.abc import Callable, Mapping

__all__ = ["UNITS", "ExpressionError", "evaluate"]

UNITS = {"P": 4096, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
"""What every expression may name."""

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.LShift: lambda a, b: a << b,
    ast.RShift: lambda a, b: a >> b,
    ast.BitAnd: lambda a, b: a & b,
    ast.BitOr: lambda a, b: a | b,
    ast.BitXor: lambda a, b: a ^ b,
}
_MOST_BITS = 4096


class ExpressionError(ValueError):
    """Text that is no such expression."""


def evaluate(text: object, names: Mapping[str, int]) -> int:
    """The value of an expression, or of a plain number. Raises ExpressionError."""
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise ExpressionError(f"{text!r} is no expression")
    if isinstance(text, int):
        return text
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, names)
    except (SyntaxError, ZeroDivisionError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{text!r} is no expression of integers: {error}") from error


def _value(node: ast.expr, names: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return value
        case ast.Name(id=name):
            if name in names:
                return names[name]
            if name in UNITS:
                return UNITS[name]
            raise ValueError(f"nothing is called {name}")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, names)
        case ast.UnaryOp(op=ast.Invert(), operand=operand):
            return ~_value(operand, names)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            a, b = _value(left, names), _value(right, names)
            if isinstance(operator, ast.LShift) and b > _MOST_BITS:
                raise ValueError("a shift that is too far")
            return _OPERATORS[type(operator)](a, b)
        case ast.Call(func=ast.Name(id="min" | "max" as name), args=[_, *_] as arguments, keywords=[]):
            values = [_value(argument, names) for argument in arguments]
            return min(values) if name == "min" else max(values)
        case _:
            raise ValueError("something else than arithmetic")
