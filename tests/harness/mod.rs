//! What the integration tests share: the tool as a process, its JSON as values, temporary files, skips.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

pub mod docker;
pub mod elf;
pub mod fleet;
pub mod image;
pub mod layout;
pub mod mtree;
pub mod packages;
pub mod rootfs;
pub mod schema;
pub mod source;
pub mod static_program;
pub mod values;
pub mod web;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Status of a shell for a process that SIGSYS ended: a vsyscall was made under the deny filter.
pub const KILLED: i32 = 128 + 31;

/// The project's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Directory with the real binaries: `VSYSPATCH_CORPUS`, else `../shared/corpus` beside the project.
pub fn real_corpus() -> Option<PathBuf> {
    let dir = match std::env::var_os("VSYSPATCH_CORPUS") {
        Some(dir) => PathBuf::from(dir),
        None => root().parent()?.join("shared/corpus"),
    };
    dir.join("truth.tsv").is_file().then_some(dir)
}

/// Directory for what is expensive to fetch again; never committed.
pub fn cache() -> PathBuf {
    let dir = root().join("target/test-cache");
    fs::create_dir_all(&dir).expect("target/test-cache can be created");
    dir
}

/// The cache for one test alone, of all threads and processes, until what is returned is dropped: who finds something
/// missing there holds this from before it looks until the thing is made.
pub fn cache_alone() -> fs::File {
    let lock = fs::File::create(cache().join("lock")).expect("a file in target/test-cache");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("a lock of target/test-cache");
    lock
}

pub fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("vsyspatch-test-").tempdir().expect("a temporary directory")
}

/// Says aloud that the calling test does not run here. With `CI=true` that is a failure.
///
/// `tests/run` counts the lines in the file that `VSYSPATCH_SKIP_LOG` names.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    eprintln!("SKIPPED {test}: {reason}");
    note("SKIPPED", &format!("{test}: {reason}"));
    assert!(std::env::var("CI").as_deref() != Ok("true"), "a test was skipped in CI: {test}: {reason}");
}

/// Says aloud that the calling test has lost its subject: a skip that time brings about, not the machine, and so
/// no failure with `CI=true`.
pub fn withdrawn(reason: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    eprintln!("SKIPPED {test}: {reason}");
    note("SKIPPED", &format!("{test}: {reason}"));
}

/// Says aloud what a search has come upon.
pub fn swept(line: &str) {
    eprintln!("SWEPT {line}");
    note("SWEPT", line);
}

/// Says aloud that `what` is written down, and not demanded yet.
pub fn later(what: &str, reason: &str) {
    eprintln!("LATER {what}: {reason}");
    note("LATER", &format!("{what}: {reason}"));
}

fn note(kind: &str, line: &str) {
    let Some(log) = std::env::var_os("VSYSPATCH_SKIP_LOG") else { return };
    let mut log = fs::OpenOptions::new().create(true).append(true).open(log).expect("the skip log opens");
    writeln!(log, "{kind} {line}").expect("the skip log is written");
}

/// Whether the tests run as root (chroot, ownership).
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether this host emulates vsyscalls (maps the page), so that the deny filter's SIGSYS can be seen.
pub fn host_emulates() -> bool {
    fs::read_to_string("/proc/self/maps").is_ok_and(|maps| maps.contains("[vsyscall]"))
}

/// Whether `program` is there to be run; skips the calling test aloud where it is not.
pub fn need(program: &str) -> bool {
    let there = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !there {
        skip(&format!("{program} is not installed (tests/run installs it)"));
    }
    there
}

/// A finished process, for assertions that show everything when they fail.
pub struct Ran {
    pub line: String,
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        let line = format!("{command:?}");
        // A process that another test forked just now may still hold a fresh file open for writing.
        for _ in 0..100 {
            match command.output() {
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                Err(e) => panic!("cannot run {line}: {e}"),
                Ok(output) => return Self::new(line, &output),
            }
        }
        panic!("{line} stays open for writing");
    }

    fn new(line: String, output: &Output) -> Self {
        let status = output.status;
        Self {
            line,
            status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "status of {self}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON on stdout ({e}) of {self}"))
    }
}

impl Ran {
    /// The report of the tool on stdout, which follows its schema.
    #[track_caller]
    pub fn report(&self) -> Value {
        let schema: Value = serde_json::from_str(include_str!("../schema/report-1.json")).expect("JSON");
        let schema = jsonschema::draft202012::new(&schema).expect("a JSON Schema");
        let report = self.json();
        let errors: Vec<String> =
            schema.iter_errors(&report).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{}\n{report:#}", errors.join("\n"));
        report
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, status, stdout, stderr } = self;
        let shown: String = stdout.chars().take(4000).collect();
        write!(f, "{line}\nstatus {status}\n--- stdout\n{shown}\n--- stderr\n{stderr}")
    }
}

/// The tool under test, which remembers nothing unless a test says where.
pub fn vsyspatch() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsyspatch"));
    command.env_remove("NO_COLOR").env("LC_ALL", "C").env("XDG_CACHE_HOME", "/dev/null");
    command
}

pub fn tool<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    Ran::of(vsyspatch().args(args))
}

/// Runs `program` with vsyscalls denied.
pub fn denied<S: AsRef<std::ffi::OsStr>>(program: impl IntoIterator<Item = S>) -> Ran {
    Ran::of(vsyspatch().args(["exec", "--"]).args(program))
}

pub fn sha256(bytes: &[u8]) -> String {
    vsyspatch::digest::Sha256::of(bytes).to_string()
}

pub fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `path` with `suffix` behind its name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// One site of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    pub offset: u64,
    pub vaddr: u64,
    pub entry: String,
    pub form: String,
    pub function: Option<String>,
    pub reach: Option<String>,
    pub verdict: String,
    pub reason: String,
    pub strategy: Option<String>,
    pub edits: Vec<SiteEdit>,
}

/// One edit of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteEdit {
    pub offset: u64,
    pub before: Vec<u8>,
    pub after: Vec<u8>,
}

/// A number of a report: the contract gives offsets and addresses as numbers; hex text is read too.
#[track_caller]
fn number(value: &Value, key: &str) -> u64 {
    let field = &value[key];
    let text = field.as_str().and_then(|s| u64::from_str_radix(s.strip_prefix("0x")?, 16).ok());
    field.as_u64().or(text).unwrap_or_else(|| panic!("`{key}` is no number in {value}"))
}

#[track_caller]
fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("`{key}` is no text in {value}")).to_owned()
}

fn optional(value: &Value, key: &str) -> Option<String> {
    value[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[track_caller]
fn bytes(value: &Value, key: &str) -> Vec<u8> {
    let digits: String = text(value, key).split_whitespace().collect();
    hex::decode(&digits).unwrap_or_else(|e| panic!("`{key}` is no hex in {value}: {e}"))
}

impl Site {
    #[track_caller]
    pub fn from_json(site: &Value) -> Self {
        let edits = site["edits"].as_array().cloned().unwrap_or_default();
        Self {
            offset: number(site, "offset"),
            vaddr: number(site, "vaddr"),
            entry: text(site, "entry"),
            form: text(site, "form"),
            function: optional(site, "function"),
            reach: optional(site, "reach"),
            verdict: text(site, "verdict"),
            reason: text(site, "reason"),
            strategy: optional(site, "strategy"),
            edits: edits
                .iter()
                .map(|edit| SiteEdit {
                    offset: number(edit, "offset"),
                    before: bytes(edit, "before"),
                    after: bytes(edit, "after"),
                })
                .collect(),
        }
    }
}

/// The files of a report's targets.
#[track_caller]
pub fn files(report: &Value) -> Vec<Value> {
    assert_eq!(report["schema"], "vsyspatch.report/1", "schema of {report}");
    let targets = report["targets"].as_array().unwrap_or_else(|| panic!("no targets in {report}"));
    targets.iter().flat_map(|target| target["files"].as_array().cloned().unwrap_or_default()).collect()
}

/// Every site that `scan --json --all` reports for `file`; checks the status against the verdicts.
#[track_caller]
pub fn scan(file: &Path) -> Vec<Site> {
    let ran = Ran::of(vsyspatch().args(["scan", "--json", "--all"]).arg(file));
    assert!(ran.status == 0 || ran.status == 1, "scan failed: {ran}");
    let files = files(&ran.json());
    assert_eq!(files.len(), 1, "files in the report of {ran}");
    let sites: Vec<Site> = files[0]["sites"]
        .as_array()
        .unwrap_or_else(|| panic!("no sites in {ran}"))
        .iter()
        .map(Site::from_json)
        .collect();
    let demanding = sites.iter().any(|site| site.verdict == "patch" || site.verdict == "refused");
    assert_eq!(ran.status, i32::from(demanding), "status of {ran}");
    assert!(sites.is_sorted_by_key(|site| site.offset), "sites are sorted by offset: {ran}");
    sites
}

/// What became of a file in [`round_trip`].
pub struct RoundTrip {
    pub sites: Vec<Site>,
    /// The patched file; the original's bytes where nothing is to be patched.
    pub patched: PathBuf,
    pub patched_bytes: Vec<u8>,
}

impl RoundTrip {
    pub fn has(&self, verdict: &str) -> bool {
        self.sites.iter().any(|site| site.verdict == verdict)
    }
}

/// scan, patch, verify, patch again, revert of `file`, with everything that must hold for any file.
///
/// The patched file stays in `dir`.
#[track_caller]
pub fn round_trip(file: &Path, dir: &Path) -> RoundTrip {
    let original = read(file);
    let sites = scan(file);
    let refused = sites.iter().any(|site| site.verdict == "refused");
    let patch = sites.iter().any(|site| site.verdict == "patch");
    let name = file.file_name().expect("a file name").to_string_lossy().into_owned();
    let patched = dir.join(format!("{name}.patched"));

    let ran = Ran::of(vsyspatch().arg("patch").arg(file).arg("-o").arg(&patched));
    let ran = ran.expect(i32::from(refused));
    assert_eq!(sha256(&read(file)), sha256(&original), "patch -o changed its input: {ran}");
    let patched_bytes = read(&patched);
    if !patch {
        assert!(patched_bytes == original, "nothing to patch, but the copy differs: {ran}");
        return RoundTrip { sites, patched, patched_bytes };
    }

    only_planned_bytes_differ(&original, &patched_bytes, &sites);
    let left = scan(&patched);
    assert!(
        left.iter().all(|site| site.verdict != "patch"),
        "left to patch in {}: {left:#?}",
        patched.display()
    );

    Ran::of(vsyspatch().arg("verify").arg(&patched)).expect(i32::from(refused));

    let again = dir.join(format!("{name}.again"));
    Ran::of(vsyspatch().arg("patch").arg(&patched).arg("-o").arg(&again)).expect(i32::from(refused));
    assert!(read(&again) == patched_bytes, "patching twice changed {}", patched.display());
    Ran::of(vsyspatch().arg("verify").arg(&again)).expect(i32::from(refused));

    let reverted = dir.join(format!("{name}.reverted"));
    let ran = Ran::of(vsyspatch().arg("revert").arg(&patched).arg("-o").arg(&reverted)).expect(0);
    assert_eq!(sha256(&read(&reverted)), sha256(&original), "not the original again: {ran}");
    assert!(read(&patched) == patched_bytes, "revert -o changed its input: {ran}");
    RoundTrip { sites, patched, patched_bytes }
}

/// The edits of the report are the whole difference between the two files.
#[track_caller]
pub fn only_planned_bytes_differ(original: &[u8], patched: &[u8], sites: &[Site]) {
    let mut rebuilt = original.to_vec();
    let edits: BTreeMap<u64, _> =
        sites.iter().flat_map(|site| &site.edits).map(|edit| (edit.offset, edit)).collect();
    for edit in edits.into_values() {
        if edit.before.is_empty() {
            assert_eq!(edit.offset, rebuilt.len() as u64, "only the end moves: {edit:x?}");
            rebuilt.extend(&edit.after);
            continue;
        }
        let range = edit.offset as usize..edit.offset as usize + edit.before.len();
        assert_eq!(edit.before.len(), edit.after.len(), "{edit:x?}");
        assert_eq!(original[range.clone()], edit.before[..], "bytes before {edit:x?}");
        rebuilt[range].copy_from_slice(&edit.after);
    }
    assert_eq!(rebuilt.len(), patched.len(), "bytes that no edit tells of");
    let first = rebuilt.iter().zip(patched).position(|(planned, real)| planned != real);
    assert_eq!(first, None, "the patched file differs from the report's edits at offset {first:x?}");
}
