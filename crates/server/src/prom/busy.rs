//! Work that takes a while, on a thread of the runtime that others wait for.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Bytes of a text from which on reading it may take long: a thousand regular expressions take seconds.
const LONG: usize = 2 << 10;

/// Does some work; when there is much of it the other tasks of the thread go on elsewhere meanwhile.
///
/// **Takes** how many bytes are worked on.
pub fn busy<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let elsewhere = Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > LONG && elsewhere { tokio::task::block_in_place(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_go_on_while_somebody_is_busy() {
        let (done, wait) = std::sync::mpsc::sync_channel(1);
        let other = tokio::spawn(async move { done.send(()).is_ok() });
        let task = tokio::spawn(async move { busy(LONG + 1, || wait.recv().is_ok()) });
        assert!(task.await.unwrap() && other.await.unwrap());
    }

    #[test]
    fn short_work_and_work_without_a_runtime_is_done_here() {
        assert_eq!((busy(1, || 1), busy(LONG + 1, || 2)), (1, 2));
    }
}
