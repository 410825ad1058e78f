//! What the tests of apply, record, verify and store share: a tiny program with one call of `time`, its
//! states on disk, and child processes that do one operation under some restriction.
#![allow(dead_code, reason = "each test program uses its part")]

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vsyspatch::digest::Sha256;
use vsyspatch::elf::{self, Parsed};
use vsyspatch::plan::{Plan, Via};
use vsyspatch::record::Record;
use vsyspatch::session::{self, Destination, Keep};

/// Where the tiny program is loaded.
pub const BASE: u64 = 0x40_0000;

/// Where its code begins in the file.
pub const CODE: usize = 0x78;

/// Offset of the instruction that holds the address of `time`.
pub const CONSTANT: usize = CODE;

/// Offset of the call through it.
pub const CALL: usize = CONSTANT + 7;

/// A static program that exits with status 0 after it called `time` in the vsyscall page.
pub fn program() -> Vec<u8> {
    let code: &[u8] = &[
        // %rdi is zero when a program starts.
        0x48, 0xc7, 0xc0, 0x00, 0x04, 0x60, 0xff, // mov $0xffffffffff600400,%rax
        0xff, 0xd0, // call *%rax
        0x31, 0xff, // xor %edi,%edi
        0xb8, 0x3c, 0x00, 0x00, 0x00, // mov $60,%eax
        0x0f, 0x05, // syscall
        0x0f, 0x0b, // ud2
    ];
    program_of(code)
}

/// The same without a call of the page.
pub fn clean_program() -> Vec<u8> {
    program_of(&[0x31, 0xff, 0xb8, 0x3c, 0x00, 0x00, 0x00, 0x0f, 0x05, 0x0f, 0x0b])
}

fn program_of(code: &[u8]) -> Vec<u8> {
    let size = (CODE + code.len()) as u64;
    let mut bytes = Vec::new();
    bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    bytes.extend([2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, EM_X86_64, version 1
    for word in [BASE + CODE as u64, 64, 0] {
        bytes.extend(word.to_le_bytes()); // e_entry, e_phoff, e_shoff
    }
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]); // flags, sizes and counts
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, R+X
    for word in [0, BASE, BASE, size, size, 0x1000] {
        bytes.extend(word.to_le_bytes()); // offset, vaddr, paddr, filesz, memsz, align
    }
    bytes.extend(code);
    bytes
}

/// The plan for `bytes`.
#[track_caller]
pub fn plan(bytes: &[u8]) -> Plan {
    match elf::parse(bytes) {
        Ok(Parsed::Image(image)) => vsyspatch::plan_elf(&image),
        other => panic!("not a program: {other:?}"),
    }
}

/// The tiny program, what it becomes, and the record of that: written down here, not planned.
pub struct Expected {
    pub original: Vec<u8>,
    pub patched: Vec<u8>,
}

impl Expected {
    pub fn new() -> Self {
        let original = program();
        let mut patched = original.clone();
        patched[CONSTANT..CONSTANT + 7].copy_from_slice(&[0x48, 0xc7, 0xc0, 201, 0, 0, 0]);
        patched[CALL..CALL + 2].copy_from_slice(&[0x0f, 0x05]);
        Self { original, patched }
    }

    pub fn record(&self) -> Record {
        Record::of(&plan(&self.original), Sha256::of(&self.original), Sha256::of(&self.patched), None)
    }
}

/// A temporary directory with the tiny program in it.
pub struct Place {
    pub directory: tempfile::TempDir,
    pub expected: Expected,
}

impl Place {
    pub fn new() -> Self {
        Self::under(&std::env::temp_dir())
    }

    pub fn under(parent: &Path) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("vsyspatch-test-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(parent)
            .expect("a temporary directory");
        let expected = Expected::new();
        fs::write(directory.path().join("program"), &expected.original).expect("the program is written");
        Self { directory, expected }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn program(&self) -> PathBuf {
        self.path("program")
    }

    pub fn record(&self) -> PathBuf {
        self.path("program.vsyspatch.json")
    }

    pub fn patch_in_place(&self) -> vsyspatch::error::Result<vsyspatch::outcome::File> {
        session::patch(&self.program(), Via::Syscall, &Destination::InPlace, None, Keep::default())
    }

    #[track_caller]
    pub fn has_original(&self) {
        assert!(
            fs::read(self.program()).unwrap() == self.expected.original,
            "the program is not the original"
        );
    }

    #[track_caller]
    pub fn has_patched(&self) {
        assert!(fs::read(self.program()).unwrap() == self.expected.patched, "the program is not as patched");
    }

    /// The names in the directory, sorted.
    pub fn names(&self) -> Vec<String> {
        names(self.directory.path())
    }
}

/// The names in `directory`, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("the directory is readable");
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Says aloud that the calling test does not run here. With `CI=true` that is a failure.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(log) = std::env::var_os("VSYSPATCH_SKIP_LOG") {
        let mut log = fs::OpenOptions::new().create(true).append(true).open(log).expect("the skip log opens");
        writeln!(log, "SKIPPED {test}: {reason}").expect("the skip log is written");
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "a test was skipped in CI: {test}: {reason}");
}

/// Whether the tests run as root; skips the calling test aloud where they do not.
pub fn need_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// A user who owns nothing here.
pub const NOBODY: u32 = 65534;

/// Name of the test, in each program that starts children, that a child runs.
const CHILD: &str = "child";
const OPERATION: &str = "VSYSPATCH_TEST_OPERATION";
const TARGET: &str = "VSYSPATCH_TEST_TARGET";
const FAULT: &str = "VSYSPATCH_TEST_FAULT";

/// A command that runs this test program again, to do `operation` on `target` in a process of its own.
/// The program must have a test named `child` that calls [`child`].
pub fn child_command(operation: &str, target: &Path) -> Command {
    let this = std::env::current_exe().expect("this program has a path");
    command_of(&this, operation, target)
}

fn command_of(program: &Path, operation: &str, target: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", CHILD, "--nocapture"]).env(OPERATION, operation).env(TARGET, target);
    command.current_dir("/");
    command
}

/// What a child said and how it ended.
pub struct Said(pub Output);

impl Said {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned() + &String::from_utf8_lossy(&self.0.stderr)
    }
}

/// Does `operation` on `target` as [`NOBODY`], with a copy of this program: where it was built may be
/// closed to others.
pub fn as_nobody(operation: &str, target: &Path) -> Said {
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    let directory = tempfile::Builder::new().permissions(open_to_all).tempdir().expect("a directory");
    let copy = directory.path().join("program");
    fs::copy(std::env::current_exe().expect("this program has a path"), &copy).expect("it can be copied");
    let mut command = command_of(&copy, operation, target);
    command.uid(NOBODY).gid(NOBODY);
    // Another test's child can hold the copy open for writing until it starts its own program.
    loop {
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            output => return Said(output.expect("the child starts")),
        }
    }
}

/// Does `operation` on `target` while the system call `number` fails with `errno`, or kills where there
/// is none.
pub fn with_fault(operation: &str, target: &Path, number: i64, errno: Option<i32>) -> Said {
    let fault = format!("{number} {}", errno.unwrap_or(0));
    Said(child_command(operation, target).env(FAULT, fault).output().expect("the child starts"))
}

/// The body of the test `child`: does what the environment says; nothing in an ordinary run.
pub fn child() {
    let (Ok(operation), Some(target)) = (std::env::var(OPERATION), std::env::var_os(TARGET)) else { return };
    let target = PathBuf::from(target);
    if let Ok(fault) = std::env::var(FAULT) {
        install(&fault);
    }
    let patch = || session::patch(&target, Via::Syscall, &Destination::InPlace, None, Keep::default());
    let revert = || session::revert(&target, &Destination::InPlace, None, Keep::default());
    match operation.as_str() {
        "scan" => say(session::scan(&target, Via::Syscall, session::Depth::Everything)),
        "patch" => say(patch()),
        "copy" => {
            let output = target.with_extension("out");
            say(session::patch(&target, Via::Syscall, &Destination::To(output), None, Keep::default()));
        }
        "revert" => say(revert()),
        "patch and revert, again and again" => loop {
            patch().and_then(|_| revert()).expect("nothing stands in the way");
        },
        other => panic!("no such operation: {other}"),
    }
}

fn say(result: vsyspatch::error::Result<vsyspatch::outcome::File>) {
    match result {
        Ok(file) => println!("OK {:?} {:?}", file.action, file.warnings),
        Err(error) => println!("ERROR {:?} {error}", error.kind()),
    }
}

/// From now on the system call fails, or kills the process; for this thread and what it starts.
pub fn install(fault: &str) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
    let (number, errno) = fault.split_once(' ').expect("number and errno");
    let number: i64 = number.parse().expect("a system call number");
    let action = match errno.parse().expect("an errno") {
        0 => SeccompAction::KillProcess,
        errno => SeccompAction::Errno(errno),
    };
    let rules = [(number, vec![])].into_iter().collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, TargetArch::x86_64);
    let program: BpfProgram = filter.expect("a filter").try_into().expect("a program");
    seccompiler::apply_filter(&program).expect("the filter is installed");
}
