//! Whatever a kernel sends after a hostile start: every event is within its bounds, and the driver comes to an end.
#![no_main]

use cellblock::{
    kernel::{Event, Execute, Kernel, wire::MAX_KERNEL_LINE},
    protocol::Value,
};
use libfuzzer_sys::fuzz_target;

const READY: &[u8] = b"{\"type\":\"ready\",\"protocol\":1,\"kernel\":\"python\",\"version\":\"3\",\"probe\":{}}\n";
/// The bounds of texts and of other representations that each cell is sent with, and what may come on top of them.
const MAX_VALUE: usize = 32;
const MAX_MEDIA: usize = 64;
const SLACK: usize = 256;

/// How often cells are handed over: as a session does, one after the other.
const CELLS: [&str; 3] = ["c1", "c2", "c3"];

async fn drive(bytes: &[u8], greeted: bool) {
    let output = if greeted { [READY, bytes].concat() } else { bytes.to_vec() };
    let streams = (Box::new(tokio::io::sink()), Box::new(std::io::Cursor::new(output)));
    let Ok((mut kernel, _)) = Kernel::start(streams.0, streams.1, "").await else {
        assert!(!greeted, "a greeting was refused");
        return;
    };
    for (count, cell) in (1..).zip(CELLS) {
        let execute = Execute { cell, count, code: "", max_value: MAX_VALUE, max_media: MAX_MEDIA, stdin: None };
        kernel.execute(execute).await.expect("a sink takes everything");
        loop {
            match kernel.next().await {
                Event::Output(_, chunk) => assert!(chunk.len() <= MAX_KERNEL_LINE),
                Event::Pong(_) => {}
                Event::Display(value) => bounded(&value),
                Event::Done(done) => {
                    assert_eq!(done.cell, cell);
                    assert!(done.cpu_ms.is_finite());
                    done.result.iter().for_each(bounded);
                    if let Some(error) = &done.error {
                        assert!(error.message.len() <= MAX_VALUE + SLACK);
                        assert!(error.traceback.iter().map(String::len).sum::<usize>() <= MAX_VALUE + SLACK);
                    }
                    break;
                }
                Event::Broken(_) | Event::Gone => return,
            }
        }
    }
    // Idle: a message about a cell, which none is, never counts.
    assert!(!matches!(kernel.next().await, Event::Output(..) | Event::Display(_) | Event::Done(_)));
}

fn bounded(value: &Value) {
    let media: usize = value.data.iter().filter(|(mime, _)| *mime != "text/plain").map(|(_, text)| text.len()).sum();
    assert!(value.data.get("text/plain").is_none_or(|text| text.len() <= MAX_VALUE + SLACK));
    // Of each of at most 32 types.
    assert!(media <= MAX_MEDIA + 32 * SLACK);
}

fuzz_target!(|input: (bool, &[u8])| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(drive(input.1, input.0));
});
