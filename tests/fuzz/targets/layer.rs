//! Any bytes as the blob of a layer: entries, what is visible of them, programs.
#![no_main]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    properties::layer(bytes);
});
