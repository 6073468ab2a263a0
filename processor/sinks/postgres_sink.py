"""Results as rows of a PostgreSQL table, in the transaction that adds the ledger's rows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from psycopg import Connection, errors, sql
from psycopg.types.json import Jsonb

from processor.errors import PermanentError, SinkUnavailable, UsageError
from processor.model import Effect

PARAMETERS_MAX = 10_000  # Values of one statement; the protocol takes 65,535.

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COLUMN_TYPES = {
    "string": "text",
    "int": "integer",
    "long": "bigint",
    "float": "real",
    "double": "double precision",
    "boolean": "boolean",
    "bytes": "bytea",
    "fixed": "bytea",
    "enum": "text",
    "array": "jsonb",
    "map": "jsonb",
    "record": "jsonb",
}
_LOGICAL_TYPES = {
    "timestamp-millis": "timestamp with time zone",
    "timestamp-micros": "timestamp with time zone",
    "date": "date",
    "time-millis": "time without time zone",
    "time-micros": "time without time zone",
    "uuid": "uuid",
    "decimal": "numeric",
}


class PostgresSink:
    """Writes what a handler returns, a mapping (one row) or a list of them, into a table.

    `keys` names the columns by which a row replaces an earlier one (an upsert); without them rows
    are only added. `schema` is an Avro record schema (a mapping, or the path of an .avsc file): the
    table must have its fields as columns of their types, which is checked when a worker starts;
    `create=True` makes the table where there is none. The ledger must be in the same database.
    """

    def __init__(
        self,
        table: str,
        *,
        keys: Sequence[str] = (),
        schema: Mapping[str, Any] | str | Path | None = None,
        create: bool = False,
    ) -> None:
        for name in (*table.split("."), *keys):
            if not _NAME.fullmatch(name):
                raise UsageError(f"`{name}` is no name", hint="letters, digits and _ only")
        self._table = table
        self._keys = tuple(keys)
        self._columns = None if schema is None else columns_of(schema)
        self._create = create
        if create and self._columns is None:
            raise UsageError(
                f"table `{table}` cannot be created without a schema",
                hint="give the Avro schema of its rows: PostgresSink(…, schema='schemas/x.avsc')",
            )
        if self._columns is not None and (missing := set(keys) - self._columns.keys()):
            raise UsageError(f"table `{table}`: the schema has no field `{min(missing)}` of `keys`")

    def prepare(self, transaction: Any) -> None:
        """Create the table, or check that it takes the results. UsageError: it does not."""
        if not isinstance(transaction, Connection):
            raise UsageError(
                f"PostgresSink(`{self._table}`) writes in the ledger's transaction, and the ledger "
                "is not in PostgreSQL",
                hint="set ledger.url to that database, postgresql://…",
            )
        if self._create and self._columns is not None:
            transaction.execute(self._statement_to_create())
        found = dict(
            transaction.execute(
                "SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute AS a"
                " WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped",
                [self._table],
            ).fetchall()
        )
        if not found:
            raise UsageError(
                f"there is no table `{self._table}` to write results to",
                hint="create it, or use PostgresSink(…, schema=…, create=True)",
            )
        for name, (kind, _) in (self._columns or dict.fromkeys(self._keys, ("", True))).items():
            if name not in found:
                raise UsageError(f"table `{self._table}` has no column `{name}`")
            if kind and found[name] != kind:
                raise UsageError(
                    f"column `{name}` of table `{self._table}` is {found[name]}; the schema makes "
                    f"it {kind}",
                    hint="alter the table, or leave `schema` away to rely on casts",
                )
        if self._keys:
            self._check_keys(transaction)

    def write_in(self, transaction: Connection[Any], effects: Sequence[Effect]) -> None:
        """Add or replace each effect's rows through the transaction, in their order."""
        run: list[list[Any]] = []
        names: tuple[str, ...] = ()
        for effect in effects:
            rows = effect.result if isinstance(effect.result, list) else [effect.result]
            for row in rows:
                self._check_row(row)
                if tuple(row) != names:
                    self._insert(transaction, names, run)
                    names, run = tuple(row), []
                run.append([self._value(name, each) for name, each in row.items()])
        self._insert(transaction, names, run)

    def _insert(
        self, transaction: Connection[Any], names: Sequence[str], rows: list[list[Any]]
    ) -> None:
        count_max = max(1, PARAMETERS_MAX // max(1, len(names)))
        for start in range(0, len(rows), count_max):
            some = rows[start : start + count_max]
            try:
                with transaction.transaction() if len(some) > 1 and self._keys else nullcontext():
                    self._execute(transaction, names, some)
            except errors.CardinalityViolation:  # Two of them have the same keys.
                for row in some:
                    self._execute(transaction, names, [row])

    def _execute(
        self, transaction: Connection[Any], names: Sequence[str], rows: list[list[Any]]
    ) -> None:
        """Write rows in one statement: the server ends no transaction idle behind a pipeline."""
        one = sql.SQL("({})").format(sql.SQL(", ").join(sql.Placeholder() * len(names)))
        statement = self._statement(names, sql.SQL(", ").join([one] * len(rows)))
        try:
            transaction.execute(statement, [value for row in rows for value in row])
        except errors.UndefinedColumn as fault:
            if self._columns is None:
                raise
            raise SinkUnavailable(
                f"table `{self._table}` lacks a column of its schema",
                hint="add the column again, or change the schema and restart the workers",
            ) from fault

    def _statement(self, names: Sequence[str], rows: sql.Composed) -> sql.Composed:
        statement = sql.SQL("INSERT INTO {} ({}) VALUES {}").format(
            sql.Identifier(*self._table.split(".")),
            sql.SQL(", ").join(map(sql.Identifier, names)),
            rows,
        )
        if self._keys:
            others = [name for name in names if name not in self._keys]
            sets = [sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in others]
            statement += sql.SQL(" ON CONFLICT ({}) DO ").format(
                sql.SQL(", ").join(map(sql.Identifier, self._keys))
            )
            statement += (
                sql.SQL("UPDATE SET ") + sql.SQL(", ").join(sets) if sets else sql.SQL("NOTHING")
            )
        return statement

    def _value(self, name: str, value: Any) -> Any:
        kind, _ = (self._columns or {}).get(name, ("", True))
        wrapped = isinstance(value, (Mapping, list)) or (kind == "jsonb" and value is not None)
        return Jsonb(value) if wrapped else value

    def _check_row(self, row: Any) -> None:
        if not isinstance(row, Mapping) or not row:
            raise PermanentError(
                f"a result for table `{self._table}` must be a mapping of columns, or a list of "
                f"them; it is {'empty' if row == {} else f'a {type(row).__name__}'}"
            )
        if self._columns is not None and (unknown := row.keys() - self._columns.keys()):
            raise PermanentError(f"table `{self._table}` has no column `{min(unknown)}`")
        for key in self._keys:
            if row.get(key) is None:
                raise PermanentError(f"a result for table `{self._table}` lacks its key `{key}`")

    def _statement_to_create(self) -> sql.Composed:
        assert self._columns is not None
        columns = [
            sql.SQL("{} " + kind + ("" if nullable else " NOT NULL")).format(sql.Identifier(name))
            for name, (kind, nullable) in self._columns.items()
        ]
        if self._keys:
            keys = sql.SQL(", ").join(map(sql.Identifier, self._keys))
            columns.append(sql.SQL("PRIMARY KEY ({})").format(keys))
        return sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(
            sql.Identifier(*self._table.split(".")), sql.SQL(", ").join(columns)
        )

    def _check_keys(self, transaction: Connection[Any]) -> None:
        unique = transaction.execute(
            "SELECT array(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid"
            " AND attnum = ANY(indkey)) FROM pg_index WHERE indrelid = to_regclass(%s)"
            " AND indisunique AND indpred IS NULL",
            [self._table],
        ).fetchall()
        if not any(set(columns) == set(self._keys) for (columns,) in unique):
            named = ", ".join(self._keys)
            raise UsageError(
                f"table `{self._table}` has no unique index on ({named}), by which rows are "
                "replaced",
                hint=f"CREATE UNIQUE INDEX ON {self._table} ({named})",
            )


def columns_of(schema: Mapping[str, Any] | str | Path) -> dict[str, tuple[str, bool]]:
    """Read the columns' PostgreSQL types, and whether they take NULL, off an Avro record schema.

    >>> columns_of({"type": "record", "name": "r", "fields": [{"name": "n", "type": "long"}]})
    {'n': ('bigint', False)}
    """
    if not isinstance(schema, Mapping):
        try:
            schema = json.loads(Path(schema).read_text())
        except (OSError, ValueError) as fault:
            raise UsageError(f"the schema {schema} cannot be read: {fault}") from None
    assert isinstance(schema, Mapping)
    fields = schema.get("fields")
    if not fields:
        raise UsageError("the schema of a table must be an Avro record with fields")
    return {field["name"]: _column_type(field["type"]) for field in fields}


def _column_type(declared: Any) -> tuple[str, bool]:
    if isinstance(declared, list):
        others = [each for each in declared if each != "null"]
        nullable = len(others) < len(declared)
        return (_column_type(others[0])[0] if len(others) == 1 else "jsonb"), nullable
    if isinstance(declared, Mapping):
        logical = _LOGICAL_TYPES.get(declared.get("logicalType", ""))
        return (logical, False) if logical is not None else _column_type(declared["type"])
    return _COLUMN_TYPES.get(declared, "jsonb"), False
