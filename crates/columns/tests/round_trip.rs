//! What is written comes back, bit for bit.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

use std::sync::Arc;

use bytes::Bytes;
use columns::{
    Column, ColumnPage, HistogramRows, NO_SCALED, PAGE_ROWS, ROW_GROUP_ROWS, RowRange, SamplesFile, SamplesWriter,
    SeriesRow, SeriesWriter, read_series, scale,
};
use model::{Labels, MetricType, STALE_NAN_BITS, Samples, stale_nan};
use proptest::prelude::*;

fn write(series: &[Samples]) -> (Bytes, Vec<RowRange>) {
    let mut writer = SamplesWriter::new(Vec::new(), 3).unwrap();
    let ranges = series.iter().enumerate().map(|(id, s)| writer.add(id as i64, s).unwrap()).collect();
    (writer.finish().unwrap().into(), ranges)
}

/// Reads one series the slow way: page by page, row by row.
fn read(file: &SamplesFile, bytes: &Bytes, range: &RowRange) -> Samples {
    let mut out = Samples::default();
    let mut row = range.first_row;
    while row < range.first_row + range.rows {
        let page = file.page_of(row).unwrap();
        let (first, next) = file.page_span(page).unwrap();
        let pages = [Column::Timestamp, Column::Scaled, Column::Plain, Column::Stale]
            .map(|column| file.read_page(bytes, column, page).unwrap());
        let [
            ColumnPage::Integers(ts),
            ColumnPage::Integers(scaled),
            ColumnPage::Doubles(plain),
            ColumnPage::Flags(stale),
        ] = &pages
        else {
            panic!("a column of the wrong kind")
        };
        while row < next.min(range.first_row + range.rows) {
            let at = (row - first) as usize;
            let value = match (stale[at], scaled[at]) {
                (true, _) => stale_nan(),
                (false, NO_SCALED) => plain[at],
                (false, n) => scale::from_scaled(n, scale::divisor(range.exponent.unwrap())),
            };
            out.push(ts[at], value);
            row += 1;
        }
    }
    out
}

fn bits(samples: &Samples) -> (Vec<i64>, Vec<u64>) {
    (samples.ts_ms.clone(), samples.values.iter().map(|v| v.to_bits()).collect())
}

#[test]
fn pages_and_row_groups_are_cut_where_the_reader_expects() {
    let mut long = Samples::default();
    for i in 0..(ROW_GROUP_ROWS + PAGE_ROWS + 5) as i64 {
        long.push(i * 15_000, if i % 7 == 0 { f64::NAN } else { i as f64 / 10.0 });
    }
    let (bytes, ranges) = write(&[long.clone(), long.clone()]);
    let file = SamplesFile::open(&bytes).unwrap();
    assert_eq!(file.rows(), 2 * long.len() as u64);
    assert_eq!(file.page_span(0), Some((0, PAGE_ROWS as u64)));
    assert_eq!(file.page_of(PAGE_ROWS as u64), Some(1));
    assert_eq!(file.page_of(file.rows()), None);
    for range in &ranges {
        assert_eq!(bits(&read(&file, &bytes, range)), bits(&long));
    }
}

#[test]
fn an_empty_file_is_a_file() {
    let (bytes, _) = write(&[]);
    let file = SamplesFile::open(&bytes).unwrap();
    assert_eq!((file.rows(), file.pages(), file.page_of(0)), (0, 0, None));
}

#[test]
fn the_series_table_comes_back() {
    let rows: Vec<SeriesRow> = (0..9_000u64)
        .map(|i| SeriesRow {
            series_id: i as i64 | 3 << 32,
            labels: Labels::from_pairs([("__name__", "m"), ("instance", &format!("host \"{i}\"")), ("job", "x")]),
            metric_type: MetricType::from_u8((i % 8) as u8),
            source: "scrape".into(),
            target_id: format!("t{}", i % 3).into(),
            rows: RowRange {
                first_row: i * 10,
                rows: 10,
                exponent: (i % 2 == 0).then_some((i % 23) as u8),
                plain_rows: i % 4,
                stale_rows: i % 5,
            },
            histograms: HistogramRows { first_row: i * 3, rows: i % 3 },
            min_ts_ms: -5,
            max_ts_ms: i as i64,
        })
        .collect();
    let mut writer = SeriesWriter::new(Vec::new(), 3).unwrap();
    for row in &rows {
        writer.add(row.clone()).unwrap();
    }
    let mut back = Vec::new();
    read_series(writer.finish().unwrap().into(), |row| back.push(row)).unwrap();
    assert_eq!(back, rows);
    assert!(Arc::ptr_eq(&back[0].source, &back[1].source));
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (-100_000i64..100_000, 0..6u8).prop_map(|(n, e)| n as f64 / scale::divisor(e)),
        2 => any::<u64>().prop_map(f64::from_bits),
        1 => prop::sample::select(vec![
            0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE / 4.0, f64::MAX, 9007199254740992.0,
            9007199254740994.0, f64::from_bits(STALE_NAN_BITS), f64::from_bits(0xfff8_dead_beef_0001), 0.1 + 0.2,
        ]),
    ]
}

fn samples() -> impl Strategy<Value = Samples> {
    prop::collection::vec((1i64..100_000, value()), 0..200).prop_map(|steps| {
        let mut out = Samples::default();
        let mut ts_ms = -1_000;
        for (step, value) in steps {
            ts_ms += step;
            out.push(ts_ms, value);
        }
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn samples_come_back_bit_for_bit(series in prop::collection::vec(samples(), 1..6)) {
        let (bytes, ranges) = write(&series);
        let file = SamplesFile::open(&bytes).unwrap();
        for (range, want) in ranges.iter().zip(&series) {
            prop_assert_eq!(bits(&read(&file, &bytes, range)), bits(want));
            prop_assert_eq!(range.plain_rows == 0 && range.stale_rows == 0 && range.rows > 0 && range.exponent.is_none(), false);
        }
    }
}
