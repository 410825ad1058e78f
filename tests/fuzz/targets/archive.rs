//! Any bytes as an archive of an image: members, documents, layers; patched, and verified.
#![no_main]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    properties::archive(bytes);
});
