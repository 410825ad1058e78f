//! tests/vdso/values.c: programs and shared objects that hold the values of vsyscalls against those of system calls.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{KILLED, Ran, host_emulates, need, root, skip, tool, with_suffix};

/// How programs are linked that make the calls themselves.
pub const KINDS: [&str; 10] = [
    "-static -no-pie",
    "-static-pie -fPIE",
    "-no-pie -fno-pie",
    "-pie -fPIE",
    "-pie -fPIE -Wl,-z,noseparate-code -Wl,-z,norelro -s",
    "-no-pie -fno-pie -fuse-ld=lld",
    "-pie -fPIE -fuse-ld=lld -Wl,-z,now",
    // More zeroed data than a file is made longer by.
    "-static-pie -fPIE -DZEROS=1000000",
    "-pie -fPIE -DZEROS=1000000",
    "-pie -fPIE -DZEROS=1000000 -Wl,-z,max-page-size=0x200000 -Wl,-z,noseparate-code",
];

pub fn compile(source: &str, options: &str, output: &Path) {
    let mut command = Command::new("gcc");
    command.args(["-O2", "-w", "-pthread"]).args(options.split(' ')).arg("-o").arg(output);
    Ran::of(command.arg(root().join("tests/vdso").join(source))).expect(0);
}

/// A program that loads shared objects, and one of each of [`OBJECTS`], in `dir`.
pub fn host_and_objects(dir: &Path) -> (PathBuf, Vec<PathBuf>) {
    let host = dir.join("host");
    compile("host.c", "-rdynamic", &host);
    let object = |(number, kind): (usize, &str)| {
        let object = dir.join(format!("values-{number}.so"));
        compile("values.c", kind, &object);
        object
    };
    (host, OBJECTS.into_iter().enumerate().map(object).collect())
}

/// `file` patched `via`.
pub fn patched(file: &Path, via: &str) -> PathBuf {
    let output = with_suffix(file, &format!(".{via}"));
    tool([Path::new("patch"), Path::new("--via"), Path::new(via), file, &output]).expect(0);
    output
}

/// How shared objects are linked: with `DT_INIT`, and with functions in `DT_INIT_ARRAY` alone.
pub const OBJECTS: [&str; 4] = [
    "-shared -fPIC -DCONSTRUCTORS",
    "-shared -fPIC -DCONSTRUCTORS -nostartfiles",
    "-shared -fPIC -DCONSTRUCTORS -nostartfiles -fuse-ld=lld",
    "-shared -fPIC -DCONSTRUCTORS -nostartfiles -Wl,-z,pack-relative-relocs",
];

/// Whether values can be compared here.
pub fn can_run() -> bool {
    let can = ["gcc", "ld.lld"].into_iter().all(need);
    if can && !host_emulates() {
        skip("this host does not emulate vsyscalls, so nothing shows that the programs made them");
    }
    can && host_emulates()
}

/// What [`assert_taken_by_tools`] needs.
pub const TOOLS: [&str; 9] =
    ["strip", "objcopy", "llvm-strip", "llvm-objcopy", "readelf", "objdump", "eu-elflint", "patchelf", "gdb"];

/// What reads and writes such files takes `cured` as it takes `file`, the original: no new complaint, and what is written
/// gives the status 0 when it is `run`, not that of one that was killed.
pub fn assert_taken_by_tools(file: &Path, cured: &Path, run: impl Fn(&Path) -> i32) {
    let readers: [&[&str]; 4] = [
        &["readelf", "-aW"],
        &["objdump", "-dx"],
        &["eu-elflint", "--gnu-ld"],
        &["patchelf", "--print-rpath"],
    ];
    for reader in readers {
        let says = |file: &Path| {
            let ran = Ran::of(Command::new(reader[0]).args(&reader[1..]).arg(file));
            let mut complaints: Vec<String> = ran.stderr.lines().map(|line| of_any(line, file)).collect();
            if reader[0] == "eu-elflint" {
                complaints.extend(ran.stdout.lines().map(|line| of_any(line, file)));
            }
            (ran.status, complaints)
        };
        assert_eq!(says(cured), says(file), "{} of {}", reader[0], file.display());
    }
    let writers = [
        &["strip"][..],
        &["strip", "--strip-debug"],
        &["objcopy"],
        &["llvm-strip"],
        &["llvm-strip", "--strip-debug"],
        &["llvm-objcopy"],
    ];
    for (number, writer) in writers.into_iter().enumerate() {
        let written = |file: &Path| {
            let output = with_suffix(file, &format!(".{number}"));
            let mut command = Command::new(writer[0]);
            if writer[0].ends_with("strip") {
                command.arg("-o").arg(&output);
            }
            command.args(&writer[1..]).arg(file);
            if writer[0].ends_with("objcopy") {
                command.arg(&output);
            }
            let ran = Ran::of(&mut command);
            let complaints: Vec<String> = ran.stderr.lines().map(|line| of_any(line, file)).collect();
            (output, (ran.status, complaints))
        };
        let (output, said) = written(cured);
        let (unpatched, usual) = written(file);
        assert_eq!(said, usual, "{writer:?} of {}", file.display());
        // LLVM's take no static program whose relocations are in no dynamic table.
        if usual.0 != 0 {
            assert!(writer[0].starts_with("llvm-") && usual.1[0].contains("Link field value"), "{usual:?}");
            continue;
        }
        for (output, status) in [(unpatched, KILLED), (output, 0)] {
            assert_eq!(run(&output), status, "{writer:?} of {}", output.display());
        }
    }
}

/// A complaint without the file's name, and where in it.
fn of_any(line: &str, file: &Path) -> String {
    let name = file.file_name().expect("a name").to_string_lossy().into_owned();
    let line = line.replace(&file.display().to_string(), "FILE").replace(&name, "FILE");
    line.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}
