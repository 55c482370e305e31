//! The notation of start timestamps: how far each lies from its sample, such as `-1m -1mx3 -1m+10sx2 _ *x4`.

use promql::go_text::parse_duration;

/// Reads the offsets in milliseconds; `None` where none is given.
pub fn parse_starts(text: &str) -> Result<Vec<Option<i64>>, String> {
    let mut all: Vec<Option<i64>> = Vec::new();
    for item in text.split_whitespace() {
        push_item(item, &mut all).map_err(|e| format!("{item}: {e}"))?;
    }
    Ok(all)
}

fn push_item(item: &str, all: &mut Vec<Option<i64>>) -> Result<(), String> {
    let times = |text: &str| text.parse::<usize>().map_err(|e| e.to_string());
    if let Some(rest) = item.strip_prefix('_') {
        let times = rest.strip_prefix('x').map_or(Ok(1), times)?;
        all.extend(std::iter::repeat_n(None, times));
        return Ok(());
    }
    if let Some(rest) = item.strip_prefix('*') {
        let before = all.iter().rev().copied().flatten().next().unwrap_or(0);
        let times = rest.strip_prefix('x').map_or(Ok(0), times)?;
        all.extend(std::iter::repeat_n(Some(before), times + 1));
        return Ok(());
    }
    let (first, rest) = duration(item)?;
    let (step, rest) = match rest.starts_with(['+', '-']) {
        true => duration(rest)?,
        false => (0, rest),
    };
    let times = match (rest.strip_prefix('x'), rest) {
        (Some(count), _) => times(count)?,
        (None, "") => 0,
        (None, rest) => return Err(format!("unexpected {rest}")),
    };
    all.extend((0..=times).map(|n| Some(first + n as i64 * step)));
    Ok(())
}

/// Takes a duration with its sign off the front.
fn duration(text: &str) -> Result<(i64, &str), String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| c == 'x' || !c.is_ascii_alphanumeric()).unwrap_or(unsigned.len());
    let (head, rest) = unsigned.split_at(end);
    let ms = parse_duration(head)?;
    Ok((if text.starts_with('-') { -ms } else { ms }, rest))
}
