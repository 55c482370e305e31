"""Stock DuckDB and stock Polars read a data directory and must find exactly what its maker says.

Use: duckdb_view.py DATA_DIRECTORY EXPECTED_JSON
"""

import glob
import json
import os
import struct
import sys

import duckdb
import polars


def bits(value):
    return f"{struct.unpack('<Q', struct.pack('<d', value))[0]:016x}"


def equal(what, got, want):
    if got != want:
        sys.exit(f"{what}: got {got!r}, want {want!r}")


def same_values(what, got, want):
    """Compares {(host, ms): value} with the expected bits. Payloads of NaNs are compared too."""
    equal(f"{what}: keys", sorted(got), sorted((h, t) for h, t, _ in want))
    wrong = [(h, t, bits(got[h, t]), b) for h, t, b in want if bits(got[h, t]) != b]
    equal(f"{what}: values that are not bit-exact", wrong, [])


def check_duckdb(want):
    db = duckdb.connect()
    with open("metrics_ts.sql", encoding="utf-8") as view:
        db.execute(view.read())
    columns = [(row[0], row[1]) for row in db.execute("DESCRIBE metrics_ts").fetchall()]
    equal(
        "columns of the view",
        columns,
        [
            ("timestamp", "TIMESTAMP WITH TIME ZONE"),
            ("metric_name", "VARCHAR"),
            ("metric_type", "VARCHAR"),
            ("value", "DOUBLE"),
            ("labels", "JSON"),
            ("source", "VARCHAR"),
            ("target_id", "VARCHAR"),
        ],
    )
    equal("rows", db.execute("SELECT count(*) FROM metrics_ts").fetchone()[0], want["rows"])
    row = db.execute(
        "SELECT count(DISTINCT labels), min(epoch_ms(timestamp)), max(epoch_ms(timestamp)), any_value(metric_name), "
        "any_value(metric_type), any_value(source), any_value(target_id), count(DISTINCT metric_name) FROM metrics_ts"
    ).fetchone()
    names = ("series", "first_ms", "last_ms", "metric_name", "metric_type", "source", "target_id")
    equal("summary", row, (*(want[name] for name in names), 1))
    odd = want["exact"][0][0]
    total = db.execute("SELECT sum(value) FROM metrics_ts WHERE labels->>'host' <> ?", [odd]).fetchone()[0]
    if abs(total - want["finite_sum"]) > 1e-9 * abs(want["finite_sum"]):
        sys.exit(f"sum: got {total}, want {want['finite_sum']}")
    hosts = sorted({host for host, _, _ in want["exact"]})
    rows = db.execute(
        "SELECT labels->>'host', epoch_ms(timestamp), value FROM metrics_ts WHERE list_contains(?, labels->>'host')",
        [hosts],
    ).fetchall()
    equal("no sample comes twice", len(rows), len(want["exact"]))
    same_values("duckdb", {(h, t): v for h, t, v in rows}, want["exact"])


def check_polars(want):
    samples = polars.concat([polars.read_parquet(f) for f in sorted(glob.glob("blocks/*/samples.parquet"))])
    series = polars.concat([polars.read_parquet(f) for f in sorted(glob.glob("blocks/*/series.parquet"))])
    equal("polars: blocks", len(glob.glob("blocks/*/samples.parquet")), want["blocks"])
    equal("polars: rows", samples.height, want["rows"] + want["stale"])
    equal("polars: stale rows", int(samples["stale"].sum()), want["stale"])
    equal("polars: rows by series", int(series["row_count"].sum()), samples.height)
    joined = samples.filter(~polars.col("stale")).join(series, on="series_id")
    joined = joined.with_columns(
        polars.when(polars.col("value_scaled").is_null())
        .then(polars.col("value_plain"))
        .otherwise(polars.col("value_scaled").cast(polars.Float64) / polars.col("divisor"))
        .alias("value")
    )
    rows = joined.select("labels", polars.col("timestamp").dt.epoch("ms"), "value").rows()
    hosts = {host for host, _, _ in want["exact"]}
    got = {(json.loads(labels)["host"], t): v for labels, t, v in rows}
    same_values("polars", {key: v for key, v in got.items() if key[0] in hosts}, want["exact"])


def main():
    with open(sys.argv[2], encoding="utf-8") as file:
        want = json.load(file)
    os.chdir(sys.argv[1])
    check_duckdb(want)
    check_polars(want)
    print(
        f"duckdb {duckdb.__version__} and polars {polars.__version__}: {want['rows']} rows of {want['series']} series in "
        f"{want['blocks']} blocks, {len(want['exact'])} values compared bit by bit"
    )


main()
