#![no_main]
#![allow(
    missing_docs,
    reason = "the laws are documented where they are checked"
)]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| afterimage_fuzz::hrl_reader::check(input));
