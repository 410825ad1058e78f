//! Any bytes: plan, apply, verify, revert.
#![no_main]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    properties::patch_revert(bytes);
});
