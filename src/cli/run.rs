//! options -> outcomes -> reports.

use std::ffi::OsString;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::args::{Args, Command, Common, Keep, Walk};
use super::output::Output;
use super::progress;
use crate::error::{Error, ErrorKind, Result};
use crate::image::reference::Access;
use crate::image::{self, Reference};
use crate::outcome::{File, Found, Status, Target, Tree};
use crate::report::json::{self, Document};
use crate::report::summary::Summary;
use crate::report::text::{self, Detail};
use crate::session::{self, Depth, Destination};
use crate::store::OtherNames;
use crate::tree::filter::Filter;
use crate::tree::{self, Progress};
use crate::{demo, deny};

/// Runs the command.
///
/// # Errors
/// Those of stdout.
pub fn run(args: Args, output: &Output) -> io::Result<Status> {
    let Args { common, command } = args;
    match command {
        Command::Scan(scan) => {
            let common_json = common.json;
            let report = Report::new(common, output, "scan").all(scan.all).strict(scan.strict.strict);
            let depth = match (scan.all, common_json) {
                (true, _) => Depth::Everything,
                (false, true) => Depth::Checksums,
                (false, false) => Depth::Sites,
            };
            report.targets(scan.targets, |target| {
                if let Some(reference) = Reference::parse(target.as_os_str(), &scan.registry.access())? {
                    return image::scan(&reference, target).map(tree_found);
                }
                if !target.is_dir() {
                    return session::scan(target, depth).map(file);
                }
                let options = tree_options(target, &scan.walk, None, &Keep::default())?;
                progress::shown(output, |progress| tree::scan(target, &options, depth, progress))
                    .map(tree_found)
            })
        }
        Command::Explain(explain) => {
            let report = Report::new(common, output, "explain").all(true);
            report.targets([explain.target], |target| session::explain(target, explain.site).map(file))
        }
        Command::Patch(patch) => {
            let report = Report::new(common, output, "patch").strict(patch.strict.strict);
            let (destination, record) = (patch.destination.resolve(), patch.record);
            report.targets([patch.target], |target| {
                if let Some(reference) = Reference::parse(target.as_os_str(), &patch.registry.access())? {
                    let output = image_output(&reference, &destination, &patch.registry.access())?;
                    return image::patch(&reference, target, output.as_ref(), patch.always).map(tree_found);
                }
                if !target.is_dir() {
                    let keep = keep(&patch.keep);
                    return session::patch(target, &destination, record.as_deref(), keep).map(file);
                }
                let options = tree_options(target, &patch.walk, record.as_deref(), &patch.keep)?;
                let patch = |progress: &Progress| tree::patch(target, &destination, &options, progress);
                progress::shown(output, patch).map(tree_found)
            })
        }
        Command::Verify(verify) => {
            let report = Report::new(common, output, "verify").strict(verify.strict.strict);
            report.targets(verify.targets, |target| {
                let record = verify.record.as_deref();
                if let Some(reference) = Reference::parse(target.as_os_str(), &verify.registry.access())? {
                    let access = verify.registry.access();
                    let against = verify.against.as_ref().map(|word| {
                        let unknown =
                            || Error::new(ErrorKind::Usage, format!("{}: no image", word.display()));
                        Reference::parse(word.as_os_str(), &access)?.ok_or_else(unknown)
                    });
                    return image::verify(&reference, target, against.transpose()?.as_ref()).map(tree_found);
                }
                if !target.is_dir() {
                    return session::verify(target, record).map(file);
                }
                let options = tree_options(target, &verify.walk, record, &Keep::default())?;
                progress::shown(output, |progress| tree::verify(target, &options, progress)).map(tree_found)
            })
        }
        Command::Revert(revert) => {
            let report = Report::new(common, output, "revert");
            let (destination, record) = (revert.destination.resolve(), revert.record.as_deref());
            report.targets([revert.target], |target| {
                if let Some(reference) = Reference::parse(target.as_os_str(), &revert.registry.access())? {
                    let output = image_output(&reference, &destination, &revert.registry.access())?;
                    return image::revert(&reference, target, output.as_ref()).map(tree_found);
                }
                if !target.is_dir() {
                    return session::revert(target, &destination, record, keep(&revert.keep)).map(file);
                }
                let options = tree_options(target, &Walk::default(), record, &revert.keep)?;
                tree::revert(target, &destination, &options).map(tree_found)
            })
        }
        Command::Demo => demo(&common, output),
        Command::Exec(exec) => Ok(become_program(exec.command, output)),
    }
}

fn file(file: File) -> Found {
    Found::File(Box::new(file))
}

fn tree_found(tree: Tree) -> Found {
    Found::Tree(Box::new(tree))
}

/// Where the image goes that comes of the one at `reference`; a path alone means the same kind of place.
fn image_output(
    reference: &Reference,
    destination: &Destination,
    access: &Access,
) -> Result<Option<Reference>> {
    let output = match destination {
        Destination::DryRun => return Ok(None),
        Destination::To(output) => output,
        Destination::InPlace => {
            let message = "an image is never changed in place: engines know it by its digest";
            return Err(Error::new(ErrorKind::Usage, message).remedy("name a place for the new image"));
        }
    };
    let named = match (Reference::parse(output.as_os_str(), access)?, reference) {
        (Some(named), _) => named,
        (None, Reference::Layout { .. }) => Reference::Layout { path: output.clone(), tag: None },
        (None, Reference::Directory(_)) => Reference::Directory(output.clone()),
        (None, _) => Reference::Archive { path: output.clone(), tag: None },
    };
    Ok(Some(named))
}

fn keep(words: &Keep) -> session::Keep {
    let other_names = if words.break_links { OtherNames::Break } else { OtherNames::Refuse };
    session::Keep { other_names, mtime: words.preserve_mtime }
}

/// What the words mean for the tree `target`.
fn tree_options(target: &Path, walk: &Walk, record: Option<&Path>, words: &Keep) -> Result<tree::Options> {
    let processors = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let walk = tree::walk::Options {
        filter: Filter::new(&walk.include, &walk.exclude)?,
        one_file_system: walk.one_file_system
            || target.canonicalize().is_ok_and(|path| path == Path::new("/")),
        threads: walk.jobs.map_or_else(processors, NonZeroUsize::get),
    };
    Ok(tree::Options { walk, record: record.map(Path::to_owned), keep: keep(words) })
}

/// Reports target by target as text, or all in one JSON document at the end.
struct Report<'a> {
    output: &'a Output,
    common: Common,
    options: json::Options,
}

impl<'a> Report<'a> {
    fn new(common: Common, output: &'a Output, command: &'static str) -> Self {
        Self { output, common, options: json::Options { command, all: false, strict: false } }
    }

    fn all(mut self, all: bool) -> Self {
        self.options.all = all;
        self
    }

    fn strict(mut self, strict: bool) -> Self {
        self.options.strict = strict;
        self
    }

    /// Runs `command` on every target; one that fails does not end the run.
    fn targets(
        self,
        names: impl IntoIterator<Item = PathBuf>,
        command: impl Fn(&Path) -> Result<Found>,
    ) -> io::Result<Status> {
        let mut done = vec![];
        let (mut worst, mut summary) = (Status::default(), Summary::default());
        // A tree has told its own.
        let mut is_only_a_tree = false;
        let names: Vec<PathBuf> = names.into_iter().collect();
        let count = names.len();
        for name in names {
            let target = Target { result: command(&name), name };
            worst = worst.max(target.status(self.options.strict));
            summary.add(Summary::of(&target));
            is_only_a_tree = count == 1 && target.tree().is_some();
            self.tell(&target)?;
            if self.common.json {
                done.push(target);
            }
        }
        if self.common.json {
            self.output.result(&Document::new(self.options, &done).to_text())?;
        } else if self.options.command == "scan" && !self.common.quiet && !is_only_a_tree {
            self.output.result(&format!("{summary}\n"))?;
        }
        Ok(worst)
    }

    /// Says on stderr what went wrong and, without `--json`, on stdout what was found.
    fn tell(&self, target: &Target) -> io::Result<()> {
        text::error_lines(target).iter().for_each(|line| self.output.message(line));
        if !self.common.quiet {
            text::warning_lines(target).iter().for_each(|line| self.output.message(line));
        }
        let is_silent = self.common.quiet && target.status(self.options.strict) == Status::Clean;
        if self.common.json || is_silent {
            return Ok(());
        }
        let detail = Detail { verbose: self.common.verbose, all: self.options.all };
        self.output.result(&text::target(target, detail))
    }
}

/// Tells the story, and says on stderr where it went otherwise.
fn demo(common: &Common, output: &Output) -> io::Result<Status> {
    let is_silent = common.quiet || common.json;
    let mut tell = |text: &str| if is_silent { Ok(()) } else { output.result(text) };
    let story = demo::run(output.has_colors(), &mut tell)?;
    let status = if story.differed.is_none() { Status::Clean } else { Status::Failed };
    if let Some(differed) = &story.differed {
        output.message(&text::message(&format!("the demo went otherwise than told: {differed}")));
    }
    if common.json {
        output.result(&Document::of_demo(story, status).to_text())?;
    }
    Ok(status)
}

/// Becomes the program; returns only where that failed.
fn become_program(command: Vec<OsString>, output: &Output) -> Status {
    let mut words = command.into_iter();
    let program = words.next().unwrap_or_default();
    let mut command = std::process::Command::new(program);
    command.args(words);
    output.message(&text::message(&deny::exec(command).to_string()));
    Status::Failed
}
