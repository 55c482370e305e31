//! PostgreSQL's binary form of COPY.

/// Microseconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH_US: i64 = 946_684_800_000_000;
const DAY_MS: i64 = 86_400_000;
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Rows on their way.
pub struct CopyRows {
    bytes: Vec<u8>,
    columns: i16,
    rows: usize,
}

impl CopyRows {
    /// Starts without a row.
    pub fn new(columns: i16) -> CopyRows {
        CopyRows { bytes: HEADER.to_vec(), columns, rows: 0 }
    }

    /// Begins a row; its columns follow.
    pub fn row(&mut self) -> &mut CopyRows {
        self.bytes.extend_from_slice(&self.columns.to_be_bytes());
        self.rows += 1;
        self
    }

    /// A `timestamptz`; see [`has_time`].
    pub fn time(&mut self, ts_ms: i64) -> &mut CopyRows {
        self.raw(&ts_ms.saturating_mul(1000).saturating_sub(EPOCH_US).to_be_bytes())
    }

    /// A `bigint`.
    pub fn bigint(&mut self, n: i64) -> &mut CopyRows {
        self.raw(&n.to_be_bytes())
    }

    /// A `double precision`, bit for bit.
    pub fn double(&mut self, value: f64) -> &mut CopyRows {
        self.raw(&value.to_bits().to_be_bytes())
    }

    /// A `text`, `varchar` or `bytea`.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut CopyRows {
        self.bytes.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A `jsonb`, from its text.
    pub fn json(&mut self, text: &str) -> &mut CopyRows {
        self.bytes.extend_from_slice(&(text.len() as i32 + 1).to_be_bytes());
        self.bytes.push(1);
        self.bytes.extend_from_slice(text.as_bytes());
        self
    }

    /// Counts the rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Gives the bytes with their end.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&(-1i16).to_be_bytes());
        self.bytes
    }
}

/// Tells whether PostgreSQL has such a time, and the days around it, where partitions end: 4713 BC to 294276 AD.
pub fn has_time(ts_ms: i64) -> bool {
    (-210_866_803_200_000 + 2 * DAY_MS..9_224_318_016_000_000 - 2 * DAY_MS).contains(&ts_ms)
}
