#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::websocket::{Event, Frames};

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let mut frames = Frames::new(1000);
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        frames.push(piece);
        loop {
            match frames.next_event() {
                Ok(Some(Event::Message(message))) => assert!(message.len() <= 1000),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
