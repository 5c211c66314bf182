//! Any line of a kernel parses or is refused, and its chunks decode or are refused.
#![no_main]

use cellblock::kernel::wire::{FromKernel, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    if let Some(FromKernel::Stream(stream)) = parse(line) {
        let _ = stream.into_bytes();
    }
});
