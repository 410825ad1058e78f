//! The real binaries of `VSYSPATCH_CORPUS` against their truth table.

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Ran, Site, elf, need, read, real_corpus, rootfs, round_trip, sha256, skip, temp_dir};

/// A look-alike of the table is named by the first of its bytes; the tool may name the instruction around them.
const MAX_INSTRUCTION: u64 = 15;

/// A row of truth.tsv.
#[derive(Clone, Debug)]
struct Truth {
    file: String,
    sha256: String,
    offset: u64,
    entry: String,
    form: String,
    function: String,
    verdict: String,
}

impl Truth {
    fn is_look_alike(&self) -> bool {
        self.form == "look-alike"
    }
}

fn truth(corpus: &Path) -> Vec<Truth> {
    let table = fs::read_to_string(corpus.join("truth.tsv")).expect("truth.tsv");
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("file\tsha256\toffset\tentry\tform\tfunction\tverdict"));
    let rows: Vec<_> = lines
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            let [file, sha256, offset, entry, form, function, verdict] = fields[..] else {
                panic!("seven fields: {line}")
            };
            Truth {
                file: file.into(),
                sha256: sha256.into(),
                offset: offset.parse().expect("a decimal offset"),
                entry: entry.into(),
                form: form.into(),
                function: function.into(),
                verdict: verdict.into(),
            }
        })
        .collect();
    assert!(rows.len() > 40, "the table is whole");
    rows
}

/// What the report says against the rows for this file, in words.
fn differences(rows: &[&Truth], sites: &[Site]) -> Vec<String> {
    let mut wrong = vec![];
    let mut known = vec![];
    for row in rows {
        let offset = row.offset;
        if row.is_look_alike() {
            let around = offset.saturating_sub(MAX_INSTRUCTION)..offset + 4;
            for site in sites.iter().filter(|site| around.contains(&site.offset)) {
                known.push(site.offset);
                if site.verdict != "harmless" && site.verdict != "unproven" {
                    wrong.push(format!("look-alike at {offset:#x}: {site:x?}"));
                }
            }
            continue;
        }
        known.push(offset);
        let Some(site) = sites.iter().find(|site| site.offset == offset) else {
            wrong.push(format!("not found: {offset:#x} {} {} {}", row.entry, row.form, row.function));
            continue;
        };
        let mut pairs = vec![
            ("entry", row.entry.as_str(), site.entry.as_str()),
            ("form", &row.form, &site.form),
            ("verdict", &row.verdict, &site.verdict),
        ];
        if !row.function.is_empty() && row.function != "(fde)" {
            pairs.push(("function", &row.function, site.function.as_deref().unwrap_or("")));
        }
        for (key, expected, found) in pairs {
            if expected != found {
                wrong.push(format!("{offset:#x}: {key} is `{found}`, not `{expected}` ({})", site.reason));
            }
        }
    }
    for site in sites.iter().filter(|site| !known.contains(&site.offset) && site.verdict != "harmless") {
        wrong.push(format!("not in the table: {site:x?}"));
    }
    wrong
}

/// Takes every file of `files` (its name in the table, where it is) through the whole round, and finds the same where
/// nothing names the functions.
fn check(files: &[(String, PathBuf)]) {
    let Some(corpus) = real_corpus() else { return skip("no VSYSPATCH_CORPUS") };
    if !need("strip") {
        return;
    }
    let truth = truth(&corpus);
    let dir = temp_dir();
    let mut wrong = vec![];
    assert!(!files.is_empty(), "there are files");
    for (index, (name, path)) in files.iter().enumerate() {
        let copy = dir.path().join(format!("{index}-{}", name.rsplit('/').next().expect("a name")));
        let original = read(path);
        fs::write(&copy, &original).expect("a copy");
        let rows: Vec<_> = truth.iter().filter(|row| row.file == *name).collect();
        for row in &rows {
            assert_eq!(sha256(&original), row.sha256, "{name} is the file of the table");
        }
        let trip = round_trip(&copy, dir.path());
        wrong.extend(differences(&rows, &trip.sites).into_iter().map(|line| format!("{name}: {line}")));
        let patched = |sites: &[Site]| {
            let patched = sites.iter().filter(|site| site.verdict == "patch");
            patched.map(|site| site.offset).collect::<Vec<_>>()
        };
        let all = patched(&trip.sites);
        let stripped = harness::with_suffix(&copy, ".stripped");
        Ran::of(Command::new("strip").arg("-o").arg(&stripped).arg(&copy)).expect(0);
        let count = patched(&harness::scan(&stripped)).len();
        if all.len() != count {
            wrong.push(format!("{name}: {} are patched, stripped {count}", all.len()));
        }
        fs::write(&copy, elf::without_section_headers(&original)).expect("a copy");
        let headerless = patched(&harness::scan(&copy));
        if all != headerless {
            wrong.push(format!("{name}: {all:x?} are patched, without section headers {headerless:x?}"));
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

/// The files of the corpus' own directories that `wanted` names.
fn corpus_files(wanted: impl Fn(&str) -> bool) -> Vec<(String, PathBuf)> {
    let Some(corpus) = real_corpus() else { return vec![] };
    let name = |path: &Path| path.strip_prefix(&corpus).expect("below").to_string_lossy().into_owned();
    let all = rootfs::elf_files(&corpus).into_iter().map(|path| (name(&path), path));
    all.filter(|(name, _)| wanted(name)).collect()
}

fn check_directory(wanted: impl Fn(&str) -> bool) {
    match corpus_files(wanted) {
        files if files.is_empty() => skip("no VSYSPATCH_CORPUS"),
        files => check(&files),
    }
}

#[test]
fn glibc() {
    check_directory(|name| name.starts_with("glibc-"));
}

#[test]
fn static_programs() {
    check_directory(|name| name.starts_with("static/"));
}

#[test]
fn go_programs() {
    check_directory(|name| name.starts_with("go/"));
}

#[test]
fn look_alikes_and_all_the_rest() {
    check_directory(|name| !["glibc-", "static/", "go/"].iter().any(|dir| name.starts_with(dir)));
}

#[test]
fn every_file_of_the_glibc_2_13_tree() {
    if real_corpus().is_none() {
        return skip("no VSYSPATCH_CORPUS");
    }
    let dir = temp_dir();
    let tree = rootfs::unpack(dir.path(), "tree");
    let name = |path: &Path| {
        format!("{}:{}", rootfs::ARCHIVE, path.strip_prefix(&tree).expect("below").to_string_lossy())
    };
    let files: Vec<_> = rootfs::elf_files(&tree).into_iter().map(|path| (name(&path), path)).collect();
    check(&files);
}

/// The table names no file that the tests above do not see, so none is passed over by a wrong name.
#[test]
fn every_row_of_the_table_is_a_file() {
    let Some(corpus) = real_corpus() else { return skip("no VSYSPATCH_CORPUS") };
    let dir = temp_dir();
    let tree = rootfs::unpack(dir.path(), "tree");
    let mut sums = BTreeMap::new();
    for row in truth(&corpus) {
        let path = match row.file.split_once(':') {
            Some((_, inner)) => tree.join(inner),
            None => corpus.join(&row.file),
        };
        let sum = sums.entry(row.file.clone()).or_insert_with(|| sha256(&read(&path)));
        assert_eq!(*sum, row.sha256, "{} as it was delivered", row.file);
    }
}
