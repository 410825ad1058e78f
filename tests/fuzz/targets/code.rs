//! Any code in a sound program: plan, apply, verify, revert.
#![no_main]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let program = properties::program_of(bytes);
    assert!(properties::scan(&program), "the program is sound");
    properties::patch_revert(&program);
});
