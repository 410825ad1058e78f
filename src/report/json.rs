//! outcomes -> the JSON document `vsyspatch.report/1`.
//!
//! The structs here are a contract with programs that read it: later versions add fields, they never
//! rename, remove or change the meaning of one. `tests/schema/report-1.json` is its schema. Offsets,
//! addresses and sizes are JSON integers, bytes are lower-case hex.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::summary::Summary;
use super::table::assembly;
use crate::demo::Story;
use crate::digest::Sha256;
use crate::doctor::host::Host;
use crate::doctor::log::Death;
use crate::elf::Identity;
use crate::error::Error;
use crate::explain;
use crate::outcome::{self, Action, Direction, Explanation, Found, Kind, Status, Tree, Unchanged, Written};
use crate::plan::{self, Plan, PlannedSite, Role, Strategy};
use crate::site::{Deed, Form, Reach, Verdict};
use crate::trace::caller::By;
use crate::trace::{self, Trace};
use crate::verify;
use crate::vsyscall::Entry;

/// Name and version of the document's form.
pub const SCHEMA: &str = "vsyspatch.report/1";

/// What decides on the contents besides the outcomes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The command that ran.
    pub command: &'static str,
    /// List files without a site, and harmless sites.
    pub all: bool,
    /// Doubt counts as much as a refusal.
    pub strict: bool,
}

/// All that one run has to say.
#[derive(Debug, Serialize)]
pub struct Document {
    schema: &'static str,
    tool: Tool,
    command: &'static str,
    /// The exit status.
    status: u8,
    targets: Vec<Target>,
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    demo: Option<Story>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Traced>,
    #[serde(skip_serializing_if = "Option::is_none")]
    doctor: Option<Diagnosis>,
}

/// What `doctor` found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Diagnosis {
    /// On this host.
    Host(Host),
    /// In a log.
    Log(Vec<Death>),
}

/// What a program was seen to do.
#[derive(Debug, Serialize)]
struct Traced {
    /// The status of the program, as a shell shows it.
    status: u8,
    calls: u64,
    processes: usize,
    files: Vec<CallingFile>,
    /// Calls whose caller is in no file, or could not be read.
    unknown: Vec<UnknownCalls>,
}

#[derive(Debug, Serialize)]
struct CallingFile {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    sha256: Option<Sha256>,
    build_id: Option<String>,
    callers: Vec<Calls>,
}

#[derive(Debug, Serialize)]
struct Calls {
    /// File offset behind the call.
    returned_to: u64,
    vaddr: Option<u64>,
    function: Option<String>,
    entry: Entry,
    count: u64,
    /// How the call belongs to a site of the scan.
    explained_by: Option<By>,
    /// Address of this site.
    site: Option<u64>,
    form: Option<Form>,
    /// Why it belongs to none: a mistake of the scan.
    unexplained: Option<String>,
}

#[derive(Debug, Serialize)]
struct UnknownCalls {
    entry: Entry,
    count: u64,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Tool {
    name: &'static str,
    version: &'static str,
}

/// What the user named, and what was found behind the name.
#[derive(Debug, Serialize)]
struct Target {
    target: String,
    /// The name in hex, where it is no UTF-8 and the string cannot hold it.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_bytes: Option<String>,
    kind: &'static str,
    status: u8,
    files: Vec<File>,
    summary: Summary,
    /// What is to be said of a directory as such.
    #[serde(skip_serializing_if = "Option::is_none")]
    tree: Option<TreeFacts>,
    /// What is to be said of an image as such.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

/// An image.
#[derive(Debug, Serialize)]
struct ImageFacts {
    /// Digest of its manifest or index.
    digest: String,
    layers: usize,
    /// Layers that could not be looked into, and why.
    not_scanned: Vec<String>,
    /// What is no longer valid: signatures and the like of an image that was replaced.
    outdated: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_digest: Option<String>,
    /// Bytes of blobs and documents that a registry was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<u64>,
    /// The image in the registry, by its digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
}

/// A tree of files.
#[derive(Debug, Serialize)]
struct TreeFacts {
    seconds: f64,
    not_entered: Vec<String>,
    /// What a run that was killed here was about to do.
    unfinished: Option<Direction>,
    record: Option<String>,
    findings: Vec<Finding>,
    /// Files that could not be read or written.
    failures: Vec<FailedFile>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct FailedFile {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    error: Failure,
}

/// Why there is nothing (more) to say of a target.
#[derive(Debug, Serialize)]
struct Failure {
    kind: &'static str,
    message: String,
    offset: Option<u64>,
}

#[derive(Debug, Serialize)]
struct File {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    /// Further names of the file in the same tree.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    links: Vec<String>,
    /// The layer that it is in, of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<String>,
    sha256: Sha256,
    size: u64,
    /// Nothing for what is no ELF file, or not handled.
    elf: Option<Elf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<Archive>,
    /// What the file is instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_handled: Option<String>,
    /// What the file is that may hold calls all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_scanned: Option<String>,
    sites: Vec<Site>,
    /// Why calls become system calls though calls of the vDSO were wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_vdso: Option<String>,
    outcome: &'static str,
    /// Where the result was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    /// Its checksum.
    #[serde(skip_serializing_if = "Option::is_none")]
    output_sha256: Option<Sha256>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<Vec<Finding>>,
    /// What `revert` changes; `patch` has its edits with the sites.
    #[serde(skip_serializing_if = "Option::is_none")]
    edits: Option<Vec<Edit>>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Elf {
    r#type: &'static str,
    r#static: bool,
    stripped: bool,
    interp: Option<String>,
    soname: Option<String>,
    build_id: Option<String>,
}

/// An `ar` archive: how many members it has, and how many of them are objects for x86-64.
#[derive(Debug, Serialize)]
struct Archive {
    members: usize,
    objects: usize,
}

#[derive(Debug, Serialize)]
struct Site {
    offset: u64,
    vaddr: u64,
    entry: Entry,
    form: Form,
    function: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<String>,
    reach: Option<Reach>,
    verdict: Verdict,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<Strategy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edits: Option<Vec<Edit>>,
    /// With `explain`: the code that the site was seen in.
    #[serde(skip_serializing_if = "Option::is_none")]
    listing: Option<Vec<Line>>,
}

/// An instruction or a data word, and what it does with the address.
#[derive(Debug, Serialize)]
struct Line {
    offset: u64,
    vaddr: u64,
    #[serde(with = "hex::serde")]
    bytes: Vec<u8>,
    assembly: Option<String>,
    deed: Option<Deed>,
    is_behind_gap: bool,
}

/// One change; two sites that share it both list it.
#[derive(Debug, Serialize)]
struct Edit {
    offset: u64,
    vaddr: Option<u64>,
    role: Role,
    #[serde(with = "hex::serde")]
    before: Vec<u8>,
    #[serde(with = "hex::serde")]
    after: Vec<u8>,
    before_asm: Vec<String>,
    after_asm: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Finding {
    slug: &'static str,
    message: String,
    offset: Option<u64>,
}

impl Document {
    /// The document of a run.
    #[must_use]
    pub fn new(options: Options, targets: &[outcome::Target]) -> Self {
        let mut summary = Summary::default();
        for target in targets {
            summary.add(Summary::of(target));
        }
        let status = targets.iter().map(|target| target.status(options.strict)).max().unwrap_or_default();
        let targets = targets.iter().map(|target| Target::new(options, target)).collect();
        Self { targets, summary, ..Self::empty(options.command, status) }
    }

    /// The document of `demo`.
    #[must_use]
    pub fn of_demo(story: Story, status: Status) -> Self {
        Self { demo: Some(story), ..Self::empty("demo", status) }
    }

    /// The document of `trace`.
    #[must_use]
    pub fn of_trace(trace: &Trace, status: Status) -> Self {
        Self { trace: Some(Traced::new(trace)), ..Self::empty("trace", status) }
    }

    /// The document of `doctor`.
    #[must_use]
    pub fn of_host(host: Host, status: Status) -> Self {
        Self { doctor: Some(Diagnosis::Host(host)), ..Self::empty("doctor", status) }
    }

    /// The document of `doctor --log`.
    #[must_use]
    pub fn of_log(deaths: Vec<Death>, status: Status) -> Self {
        Self { doctor: Some(Diagnosis::Log(deaths)), ..Self::empty("doctor", status) }
    }

    fn empty(command: &'static str, status: Status) -> Self {
        Self {
            schema: SCHEMA,
            tool: Tool { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") },
            command,
            status: status.code(),
            targets: vec![],
            summary: Summary::default(),
            demo: None,
            trace: None,
            doctor: None,
        }
    }

    /// The document as text, for people to read too, with a final newline.
    #[must_use]
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("strings, numbers and lists only");
        text + "\n"
    }
}

impl Traced {
    fn new(trace: &Trace) -> Self {
        let unknown = trace.unknown.iter().map(|((entry, reason), &count)| UnknownCalls {
            entry: *entry,
            count,
            reason: reason.clone(),
        });
        Self {
            status: trace.ended.status(),
            calls: trace.count(),
            processes: trace.processes,
            files: trace.files.iter().map(CallingFile::new).collect(),
            unknown: unknown.collect(),
        }
    }
}

impl CallingFile {
    fn new(file: &trace::CallingFile) -> Self {
        let (path, path_bytes) = name_of(&file.path);
        Self {
            path,
            path_bytes,
            sha256: file.sha256,
            build_id: file.build_id.clone(),
            callers: file.calls.iter().map(Calls::new).collect(),
        }
    }
}

impl Calls {
    fn new(calls: &trace::Calls) -> Self {
        let explained = calls.explained.as_ref().ok();
        Self {
            returned_to: calls.returned_to.0,
            vaddr: calls.vaddr.map(|vaddr| vaddr.0),
            function: calls.function.clone(),
            entry: calls.entry,
            count: calls.count,
            explained_by: explained.map(|explained| explained.by),
            site: explained.and_then(|explained| explained.site).map(|site| site.0),
            form: explained.and_then(|explained| explained.form),
            unexplained: calls.explained.as_ref().err().cloned(),
        }
    }
}

impl Target {
    fn new(options: Options, target: &outcome::Target) -> Self {
        let kind = match &target.result {
            Ok(Found::File(file)) => kind_name(&file.kind),
            Ok(Found::Tree(tree)) if tree.image.is_some() => "image",
            Ok(Found::Tree(_)) => "tree",
            Err(_) => "unknown",
        };
        let files = target.files().filter_map(|(_, result)| File::listed(options, result.ok()?));
        let (name, bytes) = name_of(&target.name);
        Self {
            target: name,
            target_bytes: bytes,
            kind,
            status: target.status(options.strict).code(),
            files: files.collect(),
            summary: Summary::of(target),
            tree: target.tree().map(TreeFacts::new),
            image: target.tree().and_then(|tree| tree.image.as_ref()).map(ImageFacts::new),
            error: target.result.as_ref().err().map(Failure::new),
        }
    }
}

impl TreeFacts {
    fn new(tree: &Tree) -> Self {
        let path_string = |path: &PathBuf| name_of(path).0;
        let failed = |file: &outcome::TreeFile| {
            let error = Failure::new(file.result.as_ref().err()?);
            let (path, path_bytes) = name_of(&file.path);
            Some(FailedFile { path, path_bytes, error })
        };
        Self {
            seconds: tree.seen.seconds,
            not_entered: tree.not_entered.iter().map(path_string).collect(),
            unfinished: tree.unfinished,
            record: tree.record.as_ref().map(path_string),
            findings: tree.findings.iter().map(Finding::new).collect(),
            failures: tree.files.iter().filter_map(failed).collect(),
            warnings: tree.warnings.clone(),
        }
    }
}

impl ImageFacts {
    fn new(facts: &outcome::ImageFacts) -> Self {
        let (output, output_digest) = facts.output.clone().unzip();
        let (digest, not_scanned) = (facts.digest.clone(), facts.not_scanned.clone());
        let outdated = facts.outdated.clone();
        let (layers, sent, reference) = (facts.layers, facts.sent, facts.reference.clone());
        Self { digest, layers, not_scanned, outdated, output, output_digest, sent, reference }
    }
}

impl Finding {
    fn new(finding: &verify::Finding) -> Self {
        Self {
            slug: finding.slug,
            message: finding.message.clone(),
            offset: finding.offset.map(|offset| offset.0),
        }
    }
}

impl Failure {
    fn new(error: &Error) -> Self {
        let text = error.to_string();
        let place = error.offset().map(|offset| format!("offset {offset}: ")).unwrap_or_default();
        Self {
            kind: error.kind().name(),
            message: text.strip_prefix(&place).unwrap_or(&text).to_owned(),
            offset: error.offset().map(|offset| offset.0),
        }
    }
}

impl File {
    /// The file, unless it is one that only `--all` lists.
    fn listed(options: Options, file: &outcome::File) -> Option<Self> {
        let sites = file.plan.as_ref().map_or_else(Vec::new, |plan| {
            if let Action::Explained(explanations) = &file.action {
                return explanations.iter().map(|seen| Site::explained(plan, seen)).collect();
            }
            let listed = |site: &&PlannedSite| options.all || site.verdict != Verdict::Harmless;
            plan.sites.iter().filter(listed).map(|site| Site::new(plan, site)).collect()
        });
        if sites.is_empty() && file.is_uneventful() && !options.all {
            return None;
        }
        let (path, path_bytes) = name_of(&file.path);
        let (mut elf, mut archive, mut not_handled, mut not_scanned) = (None, None, None, None);
        match &file.kind {
            Kind::Clean => return None, // listed with --all only, and then it has an identity
            Kind::Elf(identity) => elf = Some(Elf::new(identity)),
            &Kind::Archive { members, objects } => archive = Some(Archive { members, objects }),
            Kind::Foreign(what) => not_handled = Some(what.clone()),
            Kind::Unscannable(what) | Kind::Container(what) => not_scanned = Some(what.clone()),
        }
        let (output, output_sha256, record) = result_of(&file.action);
        let path_string = |path: &Path| name_of(path).0;
        Some(Self {
            path,
            path_bytes,
            layer: file.layer.clone(),
            links: file.links.iter().map(|path| name_of(path).0).collect(),
            sha256: file.sha256?,
            size: file.size,
            elf,
            archive,
            not_handled,
            not_scanned,
            sites,
            not_vdso: file.plan.as_ref().and_then(|plan| plan.not_vdso.clone()),
            outcome: outcome_name(file),
            output: output.map(path_string),
            output_sha256,
            record: record.map(path_string),
            findings: findings(&file.action),
            edits: edits_of_revert(&file.action),
            warnings: file.warnings.clone(),
        })
    }
}

impl Elf {
    fn new(identity: &Identity) -> Self {
        Self {
            r#type: identity.file_type.name(),
            r#static: identity.is_static,
            stripped: identity.stripped,
            interp: identity.interp.clone(),
            soname: identity.soname.clone(),
            build_id: identity.build_id.clone(),
        }
    }
}

impl Site {
    fn new(plan: &Plan, site: &PlannedSite) -> Self {
        let edits = || site.edits.iter().map(|&index| Edit::new(&plan.edits[index])).collect();
        Self {
            offset: site.offset.0,
            vaddr: site.vaddr.0,
            entry: site.entry,
            form: site.form,
            function: site.function.clone(),
            member: site.member.clone(),
            reach: site.reach,
            verdict: site.verdict,
            reason: site.reason.clone(),
            strategy: site.strategy,
            edits: (site.verdict == Verdict::Patch).then(edits),
            listing: None,
        }
    }

    fn explained(plan: &Plan, seen: &Explanation) -> Self {
        let line = |line: &explain::Line| Line {
            offset: line.offset.0,
            vaddr: line.vaddr.0,
            bytes: line.bytes.clone(),
            assembly: line.assembly.clone(),
            deed: line.deed,
            is_behind_gap: line.is_behind_gap,
        };
        let listing = Some(seen.listing.iter().map(line).collect());
        Self { listing, ..Self::new(plan, &plan.sites[seen.site]) }
    }
}

impl Edit {
    fn new(edit: &plan::Edit) -> Self {
        let [before_asm, after_asm] = assembly(edit);
        Self {
            offset: edit.offset.0,
            vaddr: edit.vaddr.map(|vaddr| vaddr.0),
            role: edit.role,
            before: edit.before.clone(),
            after: edit.after.clone(),
            before_asm,
            after_asm,
        }
    }
}

/// The name as a string, and its bytes in hex where the string could not keep them.
fn name_of(path: &Path) -> (String, Option<String>) {
    let bytes = path.to_str().is_none().then(|| hex::encode(path.as_os_str().as_bytes()));
    (path.to_string_lossy().into_owned(), bytes)
}

/// What kind of target that is, in one stable word.
fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Elf(_) | Kind::Clean | Kind::Foreign(_) => "elf",
        Kind::Archive { .. } => "archive",
        Kind::Unscannable(_) | Kind::Container(_) => "unknown",
    }
}

/// What came of the file, in one stable word.
fn outcome_name(file: &outcome::File) -> &'static str {
    match &file.action {
        _ if file.kind.not_scanned().is_some() => "not-scanned",
        Action::Scanned | Action::Explained(_) if file.status(true) == Status::Clean => "clean",
        Action::Scanned | Action::Explained(_) => "sites-found",
        Action::Written(Written { dry_run: true, .. }) => "planned",
        Action::Written(Written { direction: Direction::Patch, .. }) => "patched",
        Action::Written(Written { direction: Direction::Revert, .. }) => "reverted",
        Action::Unchanged(Unchanged::Clean { .. }) => "unchanged",
        Action::Unchanged(Unchanged::AlreadyPatched { .. }) => "already-patched",
        Action::Unchanged(Unchanged::AlreadyOriginal) => "already-original",
        Action::Verified(findings) if findings.is_empty() => "verified",
        Action::Verified(_) => "findings",
    }
}

/// Output, its checksum, record.
fn result_of(action: &Action) -> (Option<&Path>, Option<Sha256>, Option<&Path>) {
    match action {
        Action::Written(written) => {
            (written.output.as_deref(), Some(written.sha256), written.record.as_deref())
        }
        Action::Unchanged(Unchanged::Clean { copy } | Unchanged::AlreadyPatched { copy }) => {
            (copy.as_deref(), None, None)
        }
        Action::Unchanged(_) | Action::Scanned | Action::Verified(_) | Action::Explained(_) => {
            (None, None, None)
        }
    }
}

fn findings(action: &Action) -> Option<Vec<Finding>> {
    let Action::Verified(findings) = action else { return None };
    Some(findings.iter().map(Finding::new).collect())
}

fn edits_of_revert(action: &Action) -> Option<Vec<Edit>> {
    match action {
        Action::Written(Written { direction: Direction::Revert, edits, .. }) => {
            Some(edits.iter().map(Edit::new).collect())
        }
        _ => None,
    }
}
