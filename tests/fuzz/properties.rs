//! What holds for any bytes. Errors are fine, panics are bugs, and revert(patch(x)) is x.
//!
//! Shared by the fuzz targets and by tests/fuzz_seeds.rs, which needs no fuzzer.
#![allow(dead_code, reason = "each target uses its own property")]

use vsyspatch::apply::{apply, inverse};
use vsyspatch::digest::Sha256;
use vsyspatch::examine::examine;
use vsyspatch::explain::listing;
use vsyspatch::image::layer::Layer;
use vsyspatch::image::merged::Collector;
use vsyspatch::image::tar::Archive;
use vsyspatch::image::{self, Context, Reference};
use vsyspatch::outcome::Tree;
use vsyspatch::plan::{PlannedSite, Via};
use vsyspatch::record::Record;
use vsyspatch::site::Verdict;
use vsyspatch::verify::verify;

/// A sound program around any code, so that what is changed at random is the code only: a fixed-address or a
/// position-independent one, of one function or of several of equal size, as the first byte says.
pub fn program_of(bytes: &[u8]) -> Vec<u8> {
    const CODE: usize = 0x100;
    const BASE: u64 = 0x40_0000;
    let (first, code) = bytes.split_first().map_or((0, bytes), |(first, code)| (*first, code));
    let base = if first & 1 == 0 { BASE } else { 0 };
    let functions = 1 + u64::from(first >> 1 & 7);
    let (room, writable) = (usize::from(first >> 4 & 3) * 16, first & 0x40 != 0);

    let mut file = vec![0; CODE];
    file.extend(code);
    file.extend(vec![0xcc; room]);
    let text_end = file.len() as u64;
    // What follows is in use, unless the program has only one segment.
    file.extend([0x55; 64]);
    let size = (code.len() as u64 / functions).max(1);
    file.resize(file.len().next_multiple_of(8), 0);
    let symbols = file.len() as u64;
    file.extend([0; 24]);
    for index in 0..functions {
        file.extend([1, 0, 0, 0, 0x12, 0, 1, 0]); // a name, global function, section 1
        file.extend((base + CODE as u64 + index * size).to_le_bytes());
        file.extend(size.to_le_bytes());
    }
    let names = file.len() as u64;
    file.extend(b"\0f\0\0\0\0\0\0");
    let sections = file.len() as u64;
    let text = [0, 1, 6, base + CODE as u64, CODE as u64, text_end - CODE as u64, 0, 16, 0];
    let symbol_table = [0, 2, 0, 0, symbols, names - symbols, 3 | 1 << 32, 8, 24];
    let strings = [0, 3, 0, 0, names, 3, 0, 1, 0];
    for [name, kind, flags, address, offset, size, link, align, entry] in
        [[0; 9], text, symbol_table, strings]
    {
        file.extend((name | kind << 32_u64).to_le_bytes());
        [flags, address, offset, size, link, align, entry]
            .iter()
            .for_each(|field| file.extend(field.to_le_bytes()));
    }

    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    header.extend([if base == 0 { 3 } else { 2 }, 0, 62, 0, 1, 0, 0, 0]);
    [base + CODE as u64, 64, sections].iter().for_each(|field| header.extend(field.to_le_bytes()));
    header.extend([0, 0, 0, 0, 64, 0, 56, 0, 1 + u8::from(writable), 0, 64, 0, 4, 0, 3, 0]);
    let data = [text_end, base + 0x20_0000 + text_end, 64];
    for (flags, [offset, address, size]) in [(5_u64, [0, base, text_end]), (6, data)] {
        let fields = [1 | flags << 32, offset, address, address, size, size, 0x1000];
        fields.iter().for_each(|field| header.extend(field.to_le_bytes()));
    }
    file[..header.len()].copy_from_slice(&header);
    file
}

/// Parsing and planning end, without a panic. Returns whether `bytes` were taken for a program.
pub fn scan(bytes: &[u8]) -> bool {
    let Ok((_, Some(plan))) = examine(bytes, Via::Syscall) else { return false };
    assert_eq!(plan.size, bytes.len() as u64, "size of the plan");
    assert_eq!(plan.has_edits(), plan.count(Verdict::Patch) > 0, "{plan:x?}");
    plan.sites.iter().for_each(|site| drop(listing(bytes, site)));
    true
}

/// Where there is something to patch, in each way: the result passes verification, leaves nothing that could be patched, and
/// goes back to `bytes` by what its record says. Returns whether there was something to make a system call of.
pub fn patch_revert(bytes: &[u8]) -> bool {
    [Via::Vdso, Via::Auto, Via::Syscall].map(|via| patch_revert_via(bytes, via))[2]
}

fn patch_revert_via(bytes: &[u8], via: Via) -> bool {
    let Ok((_, Some(plan))) = examine(bytes, via) else { return false };
    if !plan.has_edits() {
        return false;
    }
    let original = Sha256::of(bytes);
    let patched = apply(bytes, original, &plan.edits).expect("the plan's edits fit");
    assert_ne!(patched, bytes, "the edits change something");

    let record = Record::of(&plan, original, Sha256::of(&patched), None);
    let read_back = Record::from_json(&record.to_json()).expect("the record can be read back");
    assert_eq!(read_back, record, "the record as it is read back");
    let findings = verify(&patched, &record);
    assert!(findings.is_empty(), "verification: {findings:x?}\nedits: {:x?}", record.edits);

    let Ok((_, Some(left))) = examine(&patched, Via::Syscall) else {
        panic!("the patched file cannot be looked into")
    };
    // What could not be patched, or was not seen, may be seen to be a call once the edits around it show where
    // instructions begin.
    let Ok((_, Some(before))) = examine(bytes, Via::Syscall) else { panic!("it was looked into before") };
    let is_call = |site: &&PlannedSite| site.verdict == Verdict::Patch;
    let was_known =
        |site: &&PlannedSite| before.sites.iter().filter(is_call).any(|old| old.offset == site.offset);
    let mut left = left.sites.iter().filter(is_call).filter(was_known);
    assert!(left.next().is_none(), "left to patch: {left:x?}");

    let reverted = apply(&patched, record.patched, &inverse(&record.edits)).expect("the inverse edits fit");
    assert!(reverted == bytes, "reverting does not give the original");
    true
}

/// The bytes as the blob of a layer, which lies below itself, too; whether it could be read.
pub fn layer(bytes: &[u8]) -> bool {
    let mut collector = Collector::default();
    for number in [1, 0] {
        let noted = |collector: &Collector, holding| {
            let mut archive = Archive::new(Layer::new(bytes)?);
            let noted = collector.note(&mut archive, holding)?;
            archive.finish()?.sums()?;
            vsyspatch::error::Result::Ok(noted)
        };
        let Ok(first) = noted(&collector, false) else { return false };
        let Some(noted) = first.or_else(|| noted(&collector, true).ok().flatten()) else { return false };
        collector.add(number, &noted);
    }
    // What the upper layer has hides the lower one.
    assert!(collector.finish().programs.iter().all(|program| program.layer == 1), "the lower layer shows");
    true
}

/// The bytes as an archive: whether it holds an image with something to patch. The patched one is sound.
pub fn archive(bytes: &[u8]) -> bool {
    let place =
        |name: &str| std::env::temp_dir().join(format!("vsyspatch-fuzz-{}-{name}", std::process::id()));
    let [source, output] = [place("source"), place("output")];
    std::fs::write(&source, bytes).expect("a file in the temporary directory");
    let [from, to] = [&source, &output].map(|path| Reference::Archive { path: path.clone(), tag: None });
    let context = Context::default();
    let patched = image::patch(&from, &source, Some(&to), false, &context);
    let is_written = |tree: &Tree| tree.image.as_ref().is_some_and(|facts| facts.output.is_some());
    let is_patched = patched.as_ref().is_ok_and(is_written);
    if is_patched {
        let verified = image::verify(&to, &output, Some(&from), &context).expect("it is an image");
        assert!(verified.findings.is_empty(), "{:?}", verified.findings);
    }
    assert_eq!(output.exists(), is_patched, "written where there is something to patch, and only then");
    for path in [source, output] {
        let _ = std::fs::remove_file(path);
    }
    is_patched
}
