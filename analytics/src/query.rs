//! One SQL query over the pipes: what is asked, what it needs, what the server sends for it, the answer.

use std::io::{BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;
#[cfg(test)]
use serde_json::Value;
use serde_json::json;

use crate::answer::{Answer, AnswerError, Format};
use crate::database::{Database, Files};
use crate::frames;
use crate::needs::{Needs, deserialize};
use crate::statement::{Refused, Statement};

/// Bytes of an answer that go in one frame.
const PIECE_BYTES: usize = 1 << 20;
/// Characters of an error: some repeat the statement.
const ERROR_CHARS_MAX: usize = 4_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    sql: String,
    format: Format,
    rows_max: u64,
    bytes_max: usize,
}

/// What goes wrong: a stable word, a sentence, a place.
struct Failure {
    code: &'static str,
    text: String,
    position: Option<u64>,
}

fn failure(code: &'static str, text: impl Into<String>) -> Failure {
    Failure { code, text: text.into(), position: None }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        failure("internal", format!("the server does not go on: {error}"))
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        match refused {
            Refused::Syntax { text, position } => Failure { code: "sql_syntax", text, position },
            Refused::Policy(text) => failure("sql_refused", text),
        }
    }
}

impl From<duckdb::Error> for Failure {
    fn from(error: duckdb::Error) -> Failure {
        let text = error.to_string();
        let code = match text.split(':').next().unwrap_or_default() {
            "Out of Memory Error" => "sql_memory",
            "Parser Error" => "sql_syntax",
            "Permission Error" => "sql_refused",
            "INTERNAL Error" => "internal",
            _ => "sql_failed",
        };
        failure(code, text)
    }
}

impl From<AnswerError> for Failure {
    fn from(error: AnswerError) -> Failure {
        match error {
            AnswerError::TooLarge(text) => failure("sql_too_large", text),
            AnswerError::Arrow(error) => failure("sql_failed", error.to_string()),
        }
    }
}

/// Answers one query.
pub fn run(database: &Database) -> std::io::Result<()> {
    let mut input = BufReader::new(std::io::stdin());
    let mut output = std::io::stdout();
    // What a library gives up on is told as well; the process ends all the same.
    std::panic::set_hook(Box::new(|_| {}));
    let answered = catch_unwind(AssertUnwindSafe(|| answer(database, &mut input, &mut output)));
    let failed = match answered {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(failed)) => failed,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            failure("sql_failed", text.unwrap_or_else(|| "the query was given up".to_owned()))
        }
    };
    let told = json!({"code": failed.code, "text": cut(failed.text), "position": failed.position});
    frames::write(&mut output, b'E', told.to_string().as_bytes())
}

fn cut(text: String) -> String {
    match text.char_indices().nth(ERROR_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

fn answer(database: &Database, input: &mut (impl Read + Send), output: &mut impl Write) -> Result<(), Failure> {
    let question: Question = match frames::read(input)? {
        (b'Q', bytes) => serde_json::from_slice(&bytes).map_err(|e| failure("internal", e.to_string()))?,
        (kind, _) => return Err(failure("internal", format!("a frame {kind:?} in the place of the question"))),
    };
    let connection = &database.connection;
    // One transaction has one present: what `now()` is in the plan it is in the query.
    connection.execute_batch("BEGIN TRANSACTION")?;
    let serialized: String =
        connection.query_row("SELECT json_serialize_sql(CAST(? AS VARCHAR))", [&question.sql], |row| row.get(0))?;
    let mut statement = Statement::read(&serialized)?;
    let needs = Needs::of(&mut statement, connection)?;
    let told = serde_json::to_vec(&needs).map_err(|e| failure("internal", e.to_string()))?;
    frames::write(output, b'P', &told)?;
    let files = receive(database, input)?;
    let text = if needs.promql.is_empty() {
        question.sql
    } else {
        deserialize(connection, &json!({"error": false, "statements": [statement.tree]}))?
    };
    database.bind(&files)?;
    let (bytes, rows) = ask(database, &text, question.format, question.rows_max, question.bytes_max)?;
    for piece in bytes.chunks(PIECE_BYTES) {
        frames::write(output, b'D', piece)?;
    }
    Ok(frames::write(output, b'Z', json!({"rows": rows}).to_string().as_bytes())?)
}

fn receive(database: &Database, input: &mut impl Read) -> Result<Files, Failure> {
    let mut files = Files::default();
    loop {
        match frames::read(input)? {
            (b'B', bytes) => files = serde_json::from_slice(&bytes).map_err(|e| failure("internal", e.to_string()))?,
            (b'T', bytes) => database.fill(&bytes).map_err(|text| {
                let code = if text.contains("Out of Memory") { "sql_memory" } else { "internal" };
                failure(code, text)
            })?,
            (b'G', _) => return Ok(files),
            (kind, _) => return Err(failure("internal", format!("an unknown frame {kind:?}"))),
        }
    }
}

fn ask(
    database: &Database,
    sql: &str,
    format: Format,
    rows_max: u64,
    bytes_max: usize,
) -> Result<(Vec<u8>, u64), Failure> {
    let types = types_of(database, sql).unwrap_or_default();
    let mut prepared = database.connection.prepare(sql)?;
    let batches = prepared.query_arrow([])?;
    let mut answer = Answer::new(format, batches.get_schema(), types, (rows_max, bytes_max))?;
    for batch in batches {
        answer.add(&batch)?;
    }
    Ok(answer.finish()?)
}

/// Says what SQL calls the types of the columns; what cannot be described, such as DESCRIBE itself, has no words.
fn types_of(database: &Database, sql: &str) -> Result<Vec<String>, duckdb::Error> {
    let mut described = database.connection.prepare(&format!("DESCRIBE {sql}"))?;
    let words = described.query_map([], |row| row.get::<_, String>(1))?;
    words.collect()
}

/// Gives the plan of a statement without running it: for tests.
#[cfg(test)]
pub fn plan(sql: &str) -> Result<Value, String> {
    let connection = duckdb::Connection::open_in_memory().map_err(|e| e.to_string())?;
    let serialized: String = connection
        .query_row("SELECT json_serialize_sql(CAST(? AS VARCHAR))", [sql], |row| row.get(0))
        .map_err(|e| e.to_string())?;
    connection.execute_batch("SET TimeZone = 'UTC'; BEGIN TRANSACTION").map_err(|e| e.to_string())?;
    let mut statement = Statement::read(&serialized).map_err(|e| e.to_string())?;
    let needs = Needs::of(&mut statement, &connection).map_err(|e| e.to_string())?;
    serde_json::to_value(&needs).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
