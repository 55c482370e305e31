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
    row = db.execute(
        "SELECT count(*), sum(\"sum\"), any_value(metric_name), count(DISTINCT labels), count(DISTINCT timestamp), "
        "min(octet_length(payload)) > 16 FROM histograms_ts"
    ).fetchone()
    n = want["histograms"]
    equal("histograms_ts", row, (n, want["histograms_sum"], want["metric_name"], 1, n, True))
    check_rollups(db, want)
    hosts = sorted({host for host, _, _ in want["exact"]})
    rows = db.execute(
        "SELECT labels->>'host', epoch_ms(timestamp), value FROM metrics_ts WHERE list_contains(?, labels->>'host')",
        [hosts],
    ).fetchall()
    equal("no sample comes twice", len(rows), len(want["exact"]))
    same_values("duckdb", {(h, t): v for h, t, v in rows}, want["exact"])


def check_rollups(db, want):
    """A roll-up says of every stretch what the samples in it say."""
    equal("rollups_1h_ts", db.execute("SELECT count(*) FROM rollups_1h_ts").fetchone()[0], 0)
    rolled = db.execute("SELECT count(*), sum(\"count\") FROM rollups_5m_ts").fetchone()
    if want["rollups"] == 0:
        equal("rollups_5m_ts", rolled, (0, None))
        return
    equal("rollups_5m_ts: samples", rolled[1], want["rows"])
    wrong = db.execute(
        "WITH made AS (SELECT labels::VARCHAR AS l, time_bucket(INTERVAL 5 minutes, timestamp) AS t, count(*) AS n, "
        "  sum(value) AS s, min(value) AS lo, max(value) AS hi, arg_min(value, timestamp) AS f, arg_max(value, timestamp) AS e, "
        "  min(timestamp) AS ft, max(timestamp) AS et FROM metrics_ts WHERE NOT isnan(value) AND isfinite(value) GROUP BY ALL) "
        "SELECT count(*) FROM rollups_5m_ts AS r JOIN made ON r.labels::VARCHAR = l AND r.timestamp = t "
        "WHERE r.\"count\" = n AND (abs(r.\"sum\" - s) > 1e-9 * abs(s) OR r.\"min\" <> lo OR r.\"max\" <> hi OR r.\"first\" <> f "
        "  OR r.\"last\" <> e OR r.first_timestamp <> ft OR r.last_timestamp <> et OR r.increase IS NULL)"
    ).fetchone()[0]
    equal("rollups_5m_ts: stretches that differ from their samples", wrong, 0)


def blocks_of_samples(name):
    """Roll-ups lie beside the blocks of samples; their samples are some of those."""
    folders = [f for f in sorted(glob.glob("blocks/*/")) if not os.path.exists(f + "rollups.parquet")]
    return [polars.read_parquet(f + name) for f in folders if os.path.exists(f + name)]


def check_polars(want):
    samples = polars.concat(blocks_of_samples("samples.parquet"))
    series = polars.concat(blocks_of_samples("series.parquet"))
    equal("polars: blocks", len(blocks_of_samples("samples.parquet")), want["blocks"])
    histograms = polars.concat(blocks_of_samples("histograms.parquet")).filter(~polars.col("stale"))
    equal("polars: histograms", (histograms.height, histograms["sum"].sum()), (want["histograms"], want["histograms_sum"]))
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
