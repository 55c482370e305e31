//! How far a stream has come.

/// The place in a sender's stream that a batch brings it to. Part of the batch's WAL record: whoever sees the batch after a crash
/// knows that all frames up to here are stored, and that none is to be stored again.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct StreamMark {
    /// Names the stream. At most 120 characters.
    pub stream_id: String,
    /// The last frame of the batch; frames before it came in this batch or in earlier ones.
    pub seq: u64,
}
