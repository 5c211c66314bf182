//! The accounts of capped output agree with what was pushed.
#![no_main]

use cellblock::output::CappedOutput;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<Vec<u8>>)| {
    let (cap, chunks) = (usize::from(input.0), input.1);
    let mut output = CappedOutput::new(cap);
    chunks.iter().for_each(|chunk| output.push(chunk));
    let (all, text) = (chunks.concat(), output.finish());
    assert_eq!(text.bytes, all.len() as u64);
    assert_eq!(text.truncated, all.len() > cap);
    assert!(text.bytes - text.dropped <= if text.truncated { cap as u64 } else { text.bytes });
    if !text.truncated {
        assert_eq!(text.text, String::from_utf8_lossy(&all));
    }
});
