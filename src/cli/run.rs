//! options -> outcomes -> reports.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::args::{Args, Command, Common, Form, Format, Keep, Memory, Registry, Walk};
use super::output::Output;
use super::{program, progress};
use crate::demo;
use crate::error::{Error, ErrorKind, Result};
use crate::image::epoch::{self, Epoch};
use crate::image::reference::Access;
use crate::image::{self, Context, Reference};
use crate::outcome::{File, Found, Status, Target, Tree};
use crate::plan::Via;
use crate::report::html;
use crate::report::json::{self, Document};
use crate::report::sarif;
use crate::report::summary::Summary;
use crate::report::text::{self, Detail};
use crate::session::{self, Depth, Destination};
use crate::store::{self, OtherNames};
use crate::tree::filter::Filter;
use crate::tree::{self, Progress};

/// Runs the command, and returns the exit status.
///
/// # Errors
/// Those of stdout.
pub fn run(args: Args, output: &Output) -> io::Result<u8> {
    let Args { common, command } = args;
    let status = match command {
        Command::Scan(scan) => {
            let report = Report::new(common, output, "scan").all(scan.all).strict(scan.strict.strict);
            let report = report.form(scan.form);
            let depth = match (scan.all, report.is_kept()) {
                (true, _) => Depth::Everything,
                (false, true) => Depth::Checksums,
                (false, false) => Depth::Sites,
            };
            let all = scan.targets.clone();
            report.targets(scan.targets, |target| {
                if let Some(reference) = Reference::parse(target.as_os_str(), &scan.registry.access())? {
                    not_of_images(&of_walk(&scan.walk))?;
                    credentials_for_one(&scan.registry, all.iter().map(PathBuf::as_path))?;
                    let platform = scan.image.platform.clone();
                    let via = scan.way.resolve();
                    let context = Context { platform, via, ..image_context(&scan.memory, output) };
                    return image::scan(&reference, target, &context).map(tree_found);
                }
                if !target.is_dir() {
                    return session::scan(target, scan.way.resolve(), depth).map(file);
                }
                let options = tree_options(target, &scan.walk, None, &Keep::default())?;
                let options = tree::Options { via: scan.way.resolve(), ..options };
                progress::shown(output, |progress| tree::scan(target, &options, depth, progress))
                    .map(tree_found)
            })
        }
        Command::Explain(explain) => {
            let report = Report::new(common, output, "explain").all(true);
            let via = explain.way.resolve();
            report.targets([explain.target], |target| session::explain(target, via, explain.site).map(file))
        }
        Command::Patch(patch) => {
            let (destination, record) = (patch.destination.resolve(), patch.record);
            let via = patch.way.resolve();
            let report = Report::new(common, output, "patch").strict(patch.strict.strict).form(patch.form);
            let report = report.reference_only(is_registry(&destination));
            report.targets([patch.target], |target| {
                if let Some(reference) = Reference::parse(target.as_os_str(), &patch.registry.access())? {
                    not_of_images(&of_walk(&patch.walk))?;
                    not_of_images(&of_keep(&patch.keep, record.as_deref()))?;
                    let to = image_output(&reference, &destination, &patch.registry.access())?;
                    credentials_for_one(
                        &patch.registry,
                        [target].into_iter().chain(output_of(&destination)),
                    )?;
                    let context = Context {
                        platform: patch.image.platform.clone(),
                        epoch: std::env::var_os(epoch::VARIABLE)
                            .map(|value| Epoch::parse(&value))
                            .transpose()?,
                        via,
                        ..image_context(&patch.memory, output)
                    };
                    let tree = image::patch(&reference, target, to.as_ref(), patch.always, &context)?;
                    return with_digest(tree, patch.digestfile.as_deref());
                }
                only_of_images(patch.digestfile.as_deref())?;
                if !target.is_dir() {
                    let keep = keep(&patch.keep);
                    return session::patch(target, via, &destination, record.as_deref(), keep).map(file);
                }
                let options = tree_options(target, &patch.walk, record.as_deref(), &patch.keep)?;
                let options = tree::Options { via, ..options };
                let patch = |progress: &Progress| tree::patch(target, &destination, &options, progress);
                progress::shown(output, patch).map(tree_found)
            })
        }
        Command::Verify(verify) => {
            let report = Report::new(common, output, "verify").strict(verify.strict.strict).form(verify.form);
            let all = verify.targets.clone();
            report.targets(verify.targets, |target| {
                let record = verify.record.as_deref();
                if let Some(reference) = Reference::parse(target.as_os_str(), &verify.registry.access())? {
                    not_of_images(&of_walk(&verify.walk))?;
                    not_of_images(&[("--record", record.is_some())])?;
                    let names = all.iter().chain(&verify.against).map(PathBuf::as_path);
                    credentials_for_one(&verify.registry, names)?;
                    let access = verify.registry.access();
                    let against = verify.against.as_ref().map(|word| {
                        let unknown =
                            || Error::new(ErrorKind::Usage, format!("{}: no image", word.display()));
                        Reference::parse(word.as_os_str(), &access)?.ok_or_else(unknown)
                    });
                    let against = against.transpose()?;
                    let platform = verify.image.platform.clone();
                    let context =
                        Context { platform, watch: progress::of_blobs(output), ..Context::default() };
                    return image::verify(&reference, target, against.as_ref(), &context).map(tree_found);
                }
                if !target.is_dir() {
                    return session::verify(target, record).map(file);
                }
                let options = tree_options(target, &verify.walk, record, &Keep::default())?;
                progress::shown(output, |progress| tree::verify(target, &options, progress)).map(tree_found)
            })
        }
        Command::Revert(revert) => {
            let (destination, record) = (revert.destination.resolve(), revert.record.as_deref());
            let report = Report::new(common, output, "revert").reference_only(is_registry(&destination));
            report.targets([revert.target], |target| {
                if let Some(reference) = Reference::parse(target.as_os_str(), &revert.registry.access())? {
                    not_of_images(&of_keep(&revert.keep, record))?;
                    let to = image_output(&reference, &destination, &revert.registry.access())?;
                    credentials_for_one(
                        &revert.registry,
                        [target].into_iter().chain(output_of(&destination)),
                    )?;
                    let tree = image::revert(
                        &reference,
                        target,
                        to.as_ref(),
                        &image_context(&revert.memory, output),
                    )?;
                    return with_digest(tree, revert.digestfile.as_deref());
                }
                only_of_images(revert.digestfile.as_deref())?;
                if !target.is_dir() {
                    return session::revert(target, &destination, record, keep(&revert.keep)).map(file);
                }
                let options = tree_options(target, &Walk::default(), record, &revert.keep)?;
                progress::shown(output, |progress| tree::revert(target, &destination, &options, progress))
                    .map(tree_found)
            })
        }
        Command::Demo => demo(&common, output),
        Command::Doctor(doctor) => return program::doctor(doctor, &common, output),
        Command::Exec(exec) => return Ok(program::exec(exec, &common, output)),
        Command::Trace(trace) => return Ok(program::trace(trace, &common, output)),
        Command::Fleet(fleet) => super::fleet::fleet(fleet, &common, output),
    };
    status.map(Status::code)
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
    reference.output(output.as_os_str(), access).map(Some)
}

/// What the command has besides an image.
fn image_context(memory: &Memory, output: &Output) -> Context {
    Context { cache: memory.cache(), watch: progress::of_blobs(output), ..Context::default() }
}

/// Whether the result goes to a registry.
fn is_registry(destination: &Destination) -> bool {
    matches!(destination, Destination::To(output) if output.as_os_str().as_bytes().starts_with(b"docker://"))
}

/// The image, whose new digest is in the file that the user named, where one was written.
fn with_digest(tree: Tree, file: Option<&Path>) -> Result<Found> {
    let written = tree.image.as_ref().and_then(|facts| facts.output.as_ref());
    if let (Some(file), Some((_, digest))) = (file, written) {
        store::write_file(file, &mut digest.as_bytes())?;
    }
    Ok(tree_found(tree))
}

fn only_of_images(digestfile: Option<&Path>) -> Result<()> {
    match digestfile {
        Some(_) => Err(Error::new(ErrorKind::Usage, "--digestfile is for images")),
        None => Ok(()),
    }
}

/// Refuses the options that are given of those that mean nothing for an image.
fn not_of_images(options: &[(&str, bool)]) -> Result<()> {
    match options.iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => {
            let message = format!("{option} is for files and directories, and means nothing for an image");
            Err(Error::new(ErrorKind::Usage, message).remedy("leave it out"))
        }
        None => Ok(()),
    }
}

fn of_walk(words: &Walk) -> [(&'static str, bool); 3] {
    let Walk { include, exclude, one_file_system, jobs: _ } = words;
    [
        ("--include", !include.is_empty()),
        ("--exclude", !exclude.is_empty()),
        ("--one-file-system", *one_file_system),
    ]
}

fn of_keep(words: &Keep, record: Option<&Path>) -> [(&'static str, bool); 3] {
    let Keep { preserve_mtime, break_links } = words;
    [("--preserve-mtime", *preserve_mtime), ("--break-links", *break_links), ("--record", record.is_some())]
}

fn output_of(destination: &Destination) -> Option<&Path> {
    match destination {
        Destination::To(output) => Some(output),
        Destination::DryRun | Destination::InPlace => None,
    }
}

/// Refuses to tell the credentials of the command line to more than one registry.
fn credentials_for_one<'a>(words: &Registry, names: impl Iterator<Item = &'a Path>) -> Result<()> {
    if words.creds.is_none() {
        return Ok(());
    }
    let names = names.filter_map(|name| name.to_str()?.strip_prefix("docker://"));
    let hosts = names.map(|name| Ok(image::registry::parts(name)?.registry));
    let hosts = hosts.collect::<Result<BTreeSet<String>>>()?;
    if hosts.len() < 2 {
        return Ok(());
    }
    let hosts = hosts.into_iter().collect::<Vec<_>>().join(" and ");
    let message = format!("--creds would tell one registry the password of another: {hosts}");
    Err(Error::new(ErrorKind::Usage, message)
        .remedy("log in to each of them with docker login or podman login, or use --authfile"))
}

fn keep(words: &Keep) -> session::Keep {
    let other_names = if words.break_links { OtherNames::Break } else { OtherNames::Refuse };
    session::Keep { other_names, mtime: words.preserve_mtime }
}

/// What the words mean for the tree `target`.
pub(super) fn tree_options(
    target: &Path,
    walk: &Walk,
    record: Option<&Path>,
    words: &Keep,
) -> Result<tree::Options> {
    let processors = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let walk = tree::walk::Options {
        filter: Filter::new(&walk.include, &walk.exclude)?,
        one_file_system: walk.one_file_system
            || target.canonicalize().is_ok_and(|path| path == Path::new("/")),
        threads: walk.jobs.map_or_else(processors, NonZeroUsize::get),
    };
    Ok(tree::Options { walk, record: record.map(Path::to_owned), keep: keep(words), via: Via::default() })
}

/// Reports target by target as text, or all in one JSON document at the end.
struct Report<'a> {
    output: &'a Output,
    common: Common,
    format: Format,
    /// Where a page goes, too.
    html: Option<PathBuf>,
    options: json::Options,
    /// stdout is for the reference of the new image alone.
    is_reference_only: bool,
}

impl<'a> Report<'a> {
    fn new(common: Common, output: &'a Output, command: &'static str) -> Self {
        let format = if common.json { Format::Json } else { Format::Text };
        let options = json::Options { command, all: false, strict: false };
        Self { output, common, format, html: None, options, is_reference_only: false }
    }

    fn reference_only(mut self, is_reference_only: bool) -> Self {
        self.is_reference_only = is_reference_only;
        self
    }

    fn form(mut self, form: Form) -> Self {
        self.format = form.format.unwrap_or(self.format);
        self.html = form.html;
        self
    }

    /// Whether all targets are told of at the end, in full.
    fn is_kept(&self) -> bool {
        self.format != Format::Text || self.html.is_some()
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
            if self.is_kept() {
                done.push(target);
            }
        }
        if self.format == Format::Json {
            self.output.result(&Document::new(self.options, &done).to_text())?;
        } else if self.format == Format::Sarif {
            self.output.result(&sarif::log(self.options, &done))?;
        } else if self.options.command == "scan" && !self.common.quiet && !is_only_a_tree {
            self.output.result(&format!("{summary}\n"))?;
        }
        if let Some(path) = &self.html {
            let written = fs::write(path, html::page(self.options, &done));
            if let Err(error) = written {
                let error = Error::io(format!("cannot write {}", path.display()), error);
                self.output.message(&text::message(&error.to_string()));
                worst = worst.max(Status::of(&error));
            }
        }
        Ok(worst)
    }

    /// Says on stderr what went wrong and, without `--json`, on stdout what was found.
    fn tell(&self, target: &Target) -> io::Result<()> {
        text::error_lines(target).iter().for_each(|line| self.output.message(line));
        if !self.common.quiet {
            text::warning_lines(target).iter().for_each(|line| self.output.message(line));
        }
        if self.format != Format::Text {
            return Ok(());
        }
        let is_silent = self.common.quiet && target.status(self.options.strict) == Status::Clean;
        let detail = Detail { verbose: self.common.verbose, all: self.options.all };
        let text = if is_silent { String::new() } else { text::target(target, detail) };
        if !self.is_reference_only {
            return self.output.result(&text);
        }
        text.lines().for_each(|line| self.output.message(line));
        let reference = target.tree().and_then(|tree| tree.image.as_ref()?.reference.as_ref());
        reference.map_or(Ok(()), |reference| self.output.result(&format!("{reference}\n")))
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
