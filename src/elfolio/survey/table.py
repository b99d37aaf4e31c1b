"""survey.table: rows as columns, for Parquet and for SQL. In: Rows. Out: an Arrow table, or ImportError."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, get_type_hints

from elfolio.layout.summary import Summary
from elfolio.survey.rows import COLUMNS, Row, values

__all__ = ["arrow_table", "records", "run_sql", "write_parquet"]

_UNBOUND = frozenset(("congruence",))
"""Powers of two up to 2 to the 64, which no integer of a table holds: as the exponent."""


def arrow_table(rows: Sequence[Row]) -> Any:
    """A pyarrow.Table with COLUMNS. Paths that are no UTF-8 have their strange bytes as `\\xff`; `congruence` is the
    exponent of its power of two, because 2 to the 64 fits no column."""
    import pyarrow as pa

    types = {str: pa.string(), int: pa.int64(), bool: pa.bool_()}
    columns = list(zip(*map(values, rows), strict=True)) or [()] * len(COLUMNS)
    arrays = {}
    for name, column in zip(COLUMNS, columns, strict=True):
        kind = _type_of(name)
        arrays[name] = pa.array([_fit(name, value) for value in column], types[kind])
    return pa.table(arrays)


def write_parquet(table: Any, path: str) -> None:
    """Writes an Arrow table to a file. Raises OSError."""
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path)


def run_sql(rows: Sequence[Row], query: str) -> Any:
    """The Arrow table that DuckDB answers `query` with; the rows are its table `survey`. Raises duckdb.Error."""
    import duckdb
    import pyarrow

    with duckdb.connect() as connection:
        connection.register("survey", arrow_table(rows))
        answer = connection.sql(query)
        # A comment, or nothing at all, is a query without an answer.
        return pyarrow.table({}) if answer is None else answer.to_arrow_table()


def records(table: Any) -> tuple[list[str], list[list[object]]]:
    """The names of an Arrow table's columns, and its rows. DuckDB adds integers up to 128 bits wide, which come as
    decimals: here they are integers again."""
    rows = [[_whole(value) for value in record.values()] for record in table.to_pylist()]
    return list(table.column_names), rows


def _whole(value: object) -> object:
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else value


def _type_of(name: str) -> type:
    """The Python type of a column; of an optional one, that of its values."""
    hints = {**get_type_hints(Row), **get_type_hints(Summary)}
    hint = hints.get(name) or get_type_hints(getattr(Row, name).fget)["return"]
    for kind in (bool, int, str):
        if hint in (kind, kind | None):
            return kind
    return str  # a Literal


def _fit(name: str, value: object) -> object:
    if name in _UNBOUND and isinstance(value, int):
        return value.bit_length() - 1
    return (
        value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if isinstance(value, str)
        else value
    )
