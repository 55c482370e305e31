#![no_main]

use libfuzzer_sys::fuzz_target;
use model::{Batch, Origin, TypeCounts};
use server::stream::{join_frames, read_frame};

// Lines of a stream: each is read or refused by itself, and those that are read fit into one batch.
fuzz_target!(|body: &[u8]| {
    let origin = Origin { source_id: "s".into(), target_id: "s".into(), ..Origin::default() };
    let (mut group, mut points) = (Batch::new(origin.clone()), TypeCounts::default());
    for line in body.split(|b| *b == b'\n').take(50) {
        if let Ok(rows) = read_frame(line, &origin, 1_700_000_000_000) {
            let part = join_frames(&mut group, &mut points, rows);
            assert!(part.samples.end <= group.samples.len());
        }
    }
    assert_eq!(group.samples.len(), group.verdicts.len());
    assert!(group.samples.iter().all(|s| (s.series.0 as usize) < group.series.len()));
    assert!(group.exemplars.iter().all(|e| (e.series.0 as usize) < group.series.len()));
});
