//! What each phase costs: `cargo bench`. The real libraries come from the directory `VSYSPATCH_CORPUS`, or
//! `../shared/corpus` beside the project; without it only the prebuilt sample is measured.
//!
//! Whole runs against `cat`, paired: `tests/benches/whole-runs FILE...`.

use std::path::{Path, PathBuf};

use divan::Bencher;
use divan::counter::BytesCount;
use vsyspatch::digest::Sha256;
use vsyspatch::elf::{Parsed, parse};
use vsyspatch::record::Record;
use vsyspatch::{apply, plan_elf, verify};

fn main() {
    divan::main();
}

fn samples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = std::env::var_os("VSYSPATCH_CORPUS").map_or(root.join("../shared/corpus"), PathBuf::from);
    let real = ["glibc-2.12/libc.so.6", "glibc-2.17/libc.so.6", "go/go1.14.7-tree", "lookalike/vim"];
    let all = real.iter().map(|name| corpus.join(name)).chain([root.join("corpus/prebuilt/forms")]);
    all.filter(|path| path.exists()).collect()
}

/// Names the sample in the output, and holds its bytes.
struct Sample {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = self.path.iter().rev().take(2).map(|part| part.to_string_lossy());
        let (file, folder) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        write!(f, "{folder}/{file}")
    }
}

fn loaded() -> Vec<Sample> {
    let load = |path: PathBuf| Sample { bytes: std::fs::read(&path).expect("a sample"), path };
    samples().into_iter().map(load).collect()
}

/// The floor of everything that reads a file: its checksum.
#[divan::bench(args = loaded())]
fn checksum(bencher: Bencher<'_, '_>, sample: &Sample) {
    bencher
        .counter(BytesCount::of_slice(&sample.bytes))
        .bench(|| Sha256::of(divan::black_box(&sample.bytes)));
}

#[divan::bench(args = loaded())]
fn parse_scan_and_plan(bencher: Bencher<'_, '_>, sample: &Sample) {
    bencher.counter(BytesCount::of_slice(&sample.bytes)).bench(|| {
        let Ok(Parsed::Image(image)) = parse(divan::black_box(&sample.bytes)) else { panic!("a program") };
        plan_elf(&image)
    });
}

#[divan::bench(args = loaded())]
fn apply_and_verify(bencher: Bencher<'_, '_>, sample: &Sample) {
    let Ok(Parsed::Image(image)) = parse(&sample.bytes) else { panic!("a program") };
    let (plan, original) = (plan_elf(&image), Sha256::of(&sample.bytes));
    bencher.counter(BytesCount::of_slice(&sample.bytes)).bench(|| {
        let patched = apply::apply(divan::black_box(&sample.bytes), original, &plan.edits).expect("applies");
        let record = Record::of(&plan, original, Sha256::of(&patched), None);
        verify::verify(&patched, &record)
    });
}
