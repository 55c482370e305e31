#![no_main]

use libfuzzer_sys::fuzz_target;
use model::LabelsBuf;
use wire::scrape::{Item, Reading, key_labels};
use wire::{BodyParser, Format};

type Sample = (Vec<u8>, Reading);

/// Reads a body with a guess for each next key.
fn read(body: &[u8], guesses: &[Sample]) -> Vec<Sample> {
    let mut parser = BodyParser::new(Format::Protobuf, body, true);
    let mut found: Vec<Sample> = Vec::new();
    loop {
        if let Some((key, _)) = guesses.get(found.len())
            && let Some(reading) = parser.next_known(key)
        {
            found.push((key.clone(), reading));
            continue;
        }
        match parser.next() {
            Some(Ok(Item::Sample { key, reading })) => {
                found.push((key.to_vec(), reading));
                let (mut own, mut again) = (LabelsBuf::default(), LabelsBuf::default());
                let key = &found[found.len() - 1].0;
                let same = key_labels(Format::Protobuf, key, parser.metric_type(), &mut again);
                assert_eq!(parser.labels(&mut own).is_ok(), same.is_ok());
                if let Ok(histogram) = parser.histogram() {
                    assert_eq!(histogram.check(), Ok(()));
                }
                parser.exemplars(|_, _, _| {});
            }
            Some(Ok(_)) => {}
            Some(Err(e)) => {
                assert!(e.offset <= body.len(), "{e}");
                return found;
            }
            None => return found,
        }
    }
}

/// NaNs are compared by their bits, as everything is that has any.
fn bits(samples: &[Sample]) -> Vec<String> {
    samples.iter().map(|(key, reading)| format!("{key:?} {reading:?}")).collect()
}

fuzz_target!(|body: &[u8]| {
    let all = read(body, &[]);
    assert_eq!(bits(&read(body, &all)), bits(&all));
});
