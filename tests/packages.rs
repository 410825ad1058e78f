//! Real packages of Debian, pinned in corpus/packages.tsv: what they hold, found by reading their code.

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use harness::packages::{self, Fetched};
use harness::{Site, read, rootfs, round_trip, scan, sha256, temp_dir};

/// A row of corpus/packages.tsv. `form` and `verdict` may allow several, with `|` between.
#[derive(Clone, Debug)]
struct Row {
    package: String,
    version: String,
    file: String,
    sha256: String,
    offset: u64,
    entry: String,
    form: String,
    verdict: String,
}

fn rows() -> Vec<Row> {
    let table = fs::read_to_string(harness::root().join("corpus/packages.tsv")).expect("packages.tsv");
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("package\tversion\tfile\tsha256\toffset\tentry\tform\tverdict"));
    let row = |line: &str| {
        let fields: Vec<_> = line.split('\t').map(str::to_owned).collect();
        let [package, version, file, sha256, offset, entry, form, verdict] =
            <[String; 8]>::try_from(fields).unwrap_or_else(|fields| panic!("eight fields: {fields:?}"));
        let offset = offset.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let offset = offset.unwrap_or_else(|| panic!("no offset: {line}"));
        Row { package, version, file, sha256, offset, entry, form, verdict }
    };
    lines.map(row).collect()
}

/// The unpacked package in the pinned version; skips aloud where it cannot be fetched at all.
fn unpacked(package: &str, version: &str) -> Option<PathBuf> {
    match packages::fetch("apt", package, version, None)? {
        Fetched::Tree(tree) => Some(tree),
        Fetched::Withdrawn(served) => panic!(
            "{package} {version}, which corpus/packages.tsv pins, is not served (any more), but {served}. \
             Fetch that version, find the sites in its files again (objdump -d FILE | grep 0xffffffffff600), \
             and write version, sha256 and offsets into corpus/packages.tsv."
        ),
    }
}

fn allows(allowed: &str, found: &str) -> bool {
    allowed.split('|').any(|one| one == found)
}

/// What the report says against the rows of one file, in words.
fn differences(rows: &[&Row], sites: &[Site]) -> Vec<String> {
    let mut wrong = vec![];
    for row in rows {
        let Some(site) = sites.iter().find(|site| site.offset == row.offset) else {
            wrong.push(format!("{}: nothing at {:#x}", row.file, row.offset));
            continue;
        };
        let pairs = [(&row.entry, &site.entry), (&row.form, &site.form), (&row.verdict, &site.verdict)];
        for (expected, found) in pairs.into_iter().filter(|(expected, found)| !allows(expected, found)) {
            let reason = &site.reason;
            wrong.push(format!("{}: {:#x} is `{found}`, not `{expected}` ({reason})", row.file, row.offset));
        }
    }
    let known = |site: &&Site| rows.iter().any(|row| row.offset == site.offset);
    for site in sites.iter().filter(|site| !known(site) && site.verdict != "harmless") {
        wrong.push(format!("not in the table: {site:x?}"));
    }
    wrong
}

fn check(package: &str) {
    let all = rows();
    let rows: Vec<_> = all.iter().filter(|row| row.package == package).collect();
    let version = &rows.first().expect("the package is in the table").version;
    let Some(tree) = unpacked(package, version) else { return };
    let mut by_file: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        by_file.entry(&row.file).or_default().push(row);
    }
    let dir = temp_dir();
    let mut wrong = vec![];
    for (file, rows) in &by_file {
        let bytes = read(&tree.join(file));
        assert_eq!(sha256(&bytes), rows[0].sha256, "{file} of {package} {version}");
        let copy = dir.path().join(Path::new(file).file_name().expect("a name"));
        fs::write(&copy, bytes).expect("a copy");
        let trip = round_trip(&copy, dir.path());
        wrong.extend(differences(rows, &trip.sites));
    }
    // No other program of the package has a call: everything in them is a look-alike.
    for file in rootfs::elf_files(&tree) {
        let name = file.strip_prefix(&tree).expect("below").to_string_lossy().into_owned();
        if by_file.contains_key(name.as_str()) || is_object(&file) {
            continue;
        }
        for site in scan(&file) {
            if site.verdict == "patch" || site.verdict == "refused" {
                wrong.push(format!("{name}: {site:x?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

/// Whether `file` is an ET_REL object: these are named and not scanned.
fn is_object(file: &Path) -> bool {
    harness::elf::u16_at(&read(file), 0x10) == 1
}

#[test]
fn dietlibc_dev() {
    check("dietlibc-dev");
}

#[test]
fn valgrind() {
    check("valgrind");
}

#[test]
fn qemu_user() {
    check("qemu-user");
}
