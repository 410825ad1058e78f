//! outcomes -> one SARIF 2.1.0 log, for the code scanning of forges. A site is a result, its verdict the rule; what
//! `verify` found and what could not be looked into are results, too. Errors are notifications of the invocation.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_sarif::sarif::{
    Address, ArtifactLocation, Invocation, Location, LogicalLocation, Message, Notification,
    NotificationLevel, PhysicalLocation, Region, ReportingDescriptor, Result as Found, ResultKind,
    ResultLevel, Run, SCHEMA_URL, Sarif, Tool, ToolComponent, Version,
};

use super::json::Options;
use crate::error::Error;
use crate::outcome::{Action, File, Status, Target};
use crate::plan::PlannedSite;
use crate::site::Verdict;
use crate::verify::Finding;

/// What stands in a path of a URI as it is.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Rules: stable names, and what they mean.
const RULES: [(&str, &str); 6] = [
    ("patch", "A call into the vsyscall page, which can be rewritten."),
    ("refused", "A call into the vsyscall page, which cannot be rewritten safely."),
    ("unproven", "An address of the vsyscall page, of which it cannot be told whether it is called."),
    ("harmless", "An address of the vsyscall page, which is proven not to be called."),
    ("finding", "A patched file is not what its record says."),
    ("not-scanned", "A file that may hold calls and cannot be looked into."),
];

/// The log as text, with a final newline.
#[must_use]
pub fn log(options: Options, targets: &[Target]) -> String {
    let status = targets.iter().map(|target| target.status(options.strict)).max().unwrap_or_default();
    let mut results = vec![];
    let mut notifications = vec![];
    for (path, result) in targets.iter().flat_map(Target::files) {
        match result {
            Ok(file) => results.extend(of_file(file, options.all)),
            Err(error) => notifications.push(notification(path, error)),
        }
    }
    for target in targets {
        let findings = target.tree().map_or(&[][..], |tree| &tree.findings);
        results.extend(findings.iter().map(|finding| of_finding(&target.name, finding)));
        let layers =
            target.tree().and_then(|tree| tree.image.as_ref()).map_or(&[][..], |image| &image.not_scanned);
        results.extend(layers.iter().map(|what| of_unscanned(&target.name, what)));
    }
    let invocation = Invocation::builder()
        .execution_successful(status < Status::Unavailable)
        .exit_code(i64::from(status.code()))
        .tool_execution_notifications(notifications)
        .build();
    let rules = RULES.map(|(id, text)| {
        let text = serde_sarif::sarif::MultiformatMessageString::builder().text(text).build();
        ReportingDescriptor::builder().id(id).short_description(text).build()
    });
    let driver = ToolComponent::builder()
        .name(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .rules(rules.to_vec())
        .build();
    let run = Run::builder()
        .tool(Tool::builder().driver(driver).build())
        .invocations(vec![invocation])
        .results(results)
        .build();
    let log =
        Sarif::builder().version(Version::V2_1_0.to_string()).schema(SCHEMA_URL).runs(vec![run]).build();
    serde_json::to_string_pretty(&log).expect("strings, numbers and lists only") + "\n"
}

fn of_file(file: &File, all: bool) -> Vec<Found> {
    let sites = file.plan.as_ref().map_or(&[][..], |plan| &plan.sites);
    let sites = sites.iter().filter(|site| all || site.verdict != Verdict::Harmless);
    let mut results: Vec<Found> = sites.map(|site| of_site(&file.path, site)).collect();
    if let Action::Verified(findings) = &file.action {
        results.extend(findings.iter().map(|finding| of_finding(&file.path, finding)));
    }
    results.extend(file.kind.not_scanned().map(|what| of_unscanned(&file.path, what)));
    results
}

fn of_site(path: &Path, site: &PlannedSite) -> Found {
    let (kind, level) = match site.verdict {
        Verdict::Patch | Verdict::Refused => (ResultKind::Fail, ResultLevel::Error),
        Verdict::Unproven => (ResultKind::Open, ResultLevel::None),
        Verdict::Harmless => (ResultKind::Pass, ResultLevel::None),
    };
    let member = site.member.as_ref().map(|member| format!(" of {member}")).unwrap_or_default();
    let text = format!("{}: {} at {}{member}: {}", site.entry, site.form, site.vaddr, site.reason);
    let physical = physical(path, Some(site.offset.0), Some(site.vaddr.0));
    let location = match &site.function {
        Some(name) => {
            let function = LogicalLocation::builder().name(name.as_str()).kind("function").build();
            Location::builder().physical_location(physical).logical_locations(vec![function]).build()
        }
        None => Location::builder().physical_location(physical).build(),
    };
    found(&site.verdict.to_string(), kind, level, text, location)
}

fn of_finding(path: &Path, finding: &Finding) -> Found {
    let text = format!("{}: {}", finding.slug, finding.message);
    let physical = physical(path, finding.offset.map(|offset| offset.0), None);
    let location = Location::builder().physical_location(physical).build();
    found("finding", ResultKind::Fail, ResultLevel::Error, text, location)
}

fn of_unscanned(path: &Path, what: &str) -> Found {
    let location = Location::builder().physical_location(physical(path, None, None)).build();
    found("not-scanned", ResultKind::Review, ResultLevel::None, what.to_owned(), location)
}

fn found(rule: &str, kind: ResultKind, level: ResultLevel, text: String, location: Location) -> Found {
    Found::builder()
        .rule_id(rule)
        .kind(kind)
        .level(level)
        .message(Message::builder().text(text).build())
        .locations(vec![location])
        .build()
}

fn notification(path: &Path, error: &Error) -> Notification {
    let location = Location::builder()
        .physical_location(physical(path, error.offset().map(|offset| offset.0), None))
        .build();
    Notification::builder()
        .level(NotificationLevel::Error.to_string())
        .message(Message::builder().text(error.to_string()).build())
        .locations(vec![location])
        .build()
}

/// A place in a file: offset and address. SARIF counts in signed numbers.
fn physical(path: &Path, offset: Option<u64>, vaddr: Option<u64>) -> PhysicalLocation {
    let uri = percent_encode(path.as_os_str().as_bytes(), IN_PATH).to_string();
    let artifact = ArtifactLocation::builder().uri(uri).build();
    let offset = offset.and_then(|offset| i64::try_from(offset).ok());
    let vaddr = vaddr.and_then(|vaddr| i64::try_from(vaddr).ok());
    let mut location = PhysicalLocation::builder().artifact_location(artifact).build();
    location.region = offset.map(|offset| Region::builder().byte_offset(offset).build());
    location.address = vaddr.map(|vaddr| Address::builder().absolute_address(vaddr).build());
    location
}
