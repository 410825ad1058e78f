//! What is behind a source: the images of a registry, the lines of a list, the entries of a directory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::trees::tree_sum;
use super::{Kind, Place};
use crate::digest::Sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::glance;
use crate::image::document::is_describing_tag;
use crate::image::reference::{Access, Reference};
use crate::image::registry::{self, listing};
use crate::image::resolve;
use crate::store::real_path;
use crate::tree::filter::Filter;

/// Transport of registries.
const REGISTRY: &str = "docker://";

/// Longest line of a list of references: a path has 4 KiB.
const LINE_BYTES: u64 = 16 << 10;

/// Images and lists of tags in a row whose registry does not answer, after which no more are asked for.
const UNAVAILABLE: usize = 5;

/// Something to work on, under one of its names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// As in [`super::Item`].
    pub digest: Option<String>,
    /// As in [`super::Item`].
    pub bytes: u64,
    /// Digest and bytes of each layer of an image, base first.
    pub layers: Vec<(String, u64)>,
    /// Where it is.
    pub place: Place,
}

/// What decides what is found.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to get at registries.
    pub access: Access,
    /// Which names are wanted: `REPOSITORY:TAG` of images in registries, paths below a directory.
    pub filter: Filter,
    /// Where what comes of it goes; nothing for the usual place.
    pub destination: Option<Template>,
    /// Files and trees are to be replaced.
    pub in_place: bool,
    /// Number of threads that walk a tree.
    pub threads: usize,
}

/// A destination with variables: `{registry}/{repository}:{tag}-novsyscall`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

/// The variables of a destination, as they are shown.
const VARIABLES: [&str; 5] = ["{registry}", "{repository}", "{tag}", "{path}", "{name}"];

impl Template {
    /// The template `text`.
    ///
    /// # Errors
    /// `Usage` for a variable that there is not.
    pub fn parse(text: &str) -> Result<Self> {
        let rest = VARIABLES.iter().fold(text.to_owned(), |rest, variable| rest.replace(variable, ""));
        if text.is_empty() || rest.contains(['{', '}']) {
            return Err(Error::new(ErrorKind::Usage, format!("{text:?} is no destination"))
                .remedy(format!("its variables are {}", VARIABLES.join(" "))));
        }
        Ok(Self(text.to_owned()))
    }

    /// The destination with these `values` of the variables, in their order.
    fn filled(&self, values: [Option<&str>; VARIABLES.len()], name: &str) -> Result<String> {
        let mut text = String::new();
        let mut rest = self.0.as_str();
        while let Some(at) = rest.find('{') {
            text += &rest[..at];
            let all = VARIABLES.iter().zip(values);
            let Some((variable, value)) = all.into_iter().find(|(it, _)| rest[at..].starts_with(**it)) else {
                break;
            };
            text += value.ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("{name} has no {variable}, which the destination wants"))
                    .remedy("plan what is in registries and what is on disks each by itself")
            })?;
            rest = &rest[at + variable.len()..];
        }
        Ok(text + rest)
    }
}

/// Finds what is behind sources.
pub struct Gatherer<'a> {
    /// What is wanted.
    pub options: &'a Options,
    /// Takes what is found.
    pub take: &'a mut dyn FnMut(Found) -> Result<()>,
    /// Takes what somebody should know.
    pub warn: &'a mut dyn FnMut(&str),
    /// Images and lists of tags in a row whose registry did not answer.
    pub unavailable: usize,
    /// What was left out.
    pub left_out: LeftOut,
}

/// What is in no list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Signatures, charts and the like, which are no images.
    pub artifacts: u64,
    /// Symbolic links in directories.
    pub links: u64,
    /// Images of archives of several that have no name.
    pub unnamed: u64,
    /// Repositories whose tags could not be listed, and would not be again.
    pub unlisted: u64,
    /// The same, where it may pass.
    pub unlisted_now: u64,
    /// Sources that ended with an error, and would again.
    pub sources: u64,
    /// The same, where it may pass.
    pub sources_now: u64,
}

impl Gatherer<'_> {
    /// Finds what is behind each of the `sources`. One that ends with an error, as a registry does that gives no list, is
    /// told of, and ends none of the others.
    ///
    /// # Errors
    /// `Usage` for what is no source; that of the last where all ended with one.
    pub fn sources(&mut self, sources: &[PathBuf]) -> Result<()> {
        let mut ended = 0;
        for source in sources {
            // Another source, another registry.
            self.unavailable = 0;
            let Err(error) = self.source(source) else { continue };
            ended += 1;
            if error.kind() == ErrorKind::Usage || ended == sources.len() {
                return Err(error);
            }
            if error.may_pass() {
                self.left_out.sources_now += 1;
            } else {
                self.left_out.sources += 1;
            }
            (self.warn)(&format!("{}: only what was found before this: {error}", source.display()));
        }
        Ok(())
    }

    /// Finds what is behind the `source` of a command line: images (`docker://HOST/`, `docker://HOST/team/*` and
    /// single ones), what is in a directory, a program, a list of references in a file (`-`: stdin).
    ///
    /// # Errors
    /// `Usage` for what is none of these; those of listing. What cannot be looked up alone is found, without a digest.
    fn source(&mut self, source: &Path) -> Result<()> {
        let text = source.to_str().ok_or_else(|| no_text(source))?;
        if text == "-" {
            return self.list(&mut std::io::stdin().lock());
        }
        if text.starts_with(REGISTRY) || Reference::parse(source.as_os_str(), &self.options.access)?.is_some()
        {
            return self.target(text);
        }
        if source.is_dir() {
            return self.directory(source);
        }
        let cannot = |error| Error::io(format!("cannot open {}", source.display()), error);
        let file = File::open(source).map_err(cannot)?;
        if is_candidate(&file) {
            return self.target(text);
        }
        self.list(&mut BufReader::new(file)).map_err(|error| error.within(source.display()))
    }

    /// What the lines name, each as `vsyspatch scan` takes it; `#` begins a comment.
    fn list(&mut self, lines: &mut dyn BufRead) -> Result<()> {
        let mut line = String::new();
        for number in 1_u64.. {
            line.clear();
            let cannot = |error| {
                Error::io(
                    format!("line {number}: neither a program or an image nor a list of references"),
                    error,
                )
            };
            let count = lines.take(LINE_BYTES).read_line(&mut line).map_err(cannot)?;
            if count as u64 == LINE_BYTES {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("line {number} is longer than any reference"),
                ));
            }
            let word = line.split('#').next().unwrap_or_default().trim();
            if !word.is_empty() {
                self.target(word)?;
            }
            if count == 0 {
                break;
            }
        }
        Ok(())
    }

    /// What a single `word` names; a directory is one tree.
    fn target(&mut self, word: &str) -> Result<()> {
        if let Some(name) = word.strip_prefix(REGISTRY) {
            return match Pattern::of(name) {
                Some(pattern) => self.registry(&pattern),
                None => self.image_in_registry(name),
            };
        }
        if let Some(reference) = Reference::parse(word.as_ref(), &self.options.access)? {
            return self.local_image(&reference);
        }
        let path = Path::new(word);
        if path.is_dir() { self.tree(path) } else { self.file(path) }
    }

    fn wants(&self, name: impl AsRef<Path>) -> bool {
        self.options.filter.wants_file(name.as_ref())
    }

    /// The images of a registry that the pattern means.
    fn registry(&mut self, pattern: &Pattern<'_>) -> Result<()> {
        let Some(wanted) = pattern.repositories else {
            return self.repository(pattern, pattern.repository);
        };
        let access = self.options.access.clone();
        let wanted = Filter::new(&[format!("/{wanted}")], &[])?;
        listing::repositories(pattern.host, &access, &mut |repository| {
            let is_wanted = wanted.wants_file(Path::new(repository));
            if is_wanted { self.repository(pattern, repository) } else { Ok(()) }
        })
    }

    /// The images of one repository that the pattern means. What is wrong with it alone ends no plan.
    fn repository(&mut self, pattern: &Pattern<'_>, repository: &str) -> Result<()> {
        let name = format!("{}/{repository}", pattern.host);
        let is_tag = Filter::new(&[pattern.tags.to_owned()], &[])?;
        let mut tags = Vec::new();
        let mut artifacts = 0;
        // Tags of one repository are held, for images are asked for in between.
        let listed = listing::tags(&name, &self.options.access, &mut |tag| {
            if is_describing_tag(tag) {
                artifacts += 1;
            } else if is_tag.wants_file(Path::new(tag)) && self.wants(format!("{repository}:{tag}")) {
                tags.push(tag.to_owned());
            }
            Ok(())
        });
        self.left_out.artifacts += artifacts;
        match listed {
            Ok(true) => self.unavailable = 0,
            // A catalog keeps the names of repositories that are empty.
            Ok(false) if pattern.repositories.is_some() => {
                (self.warn)(&format!("{REGISTRY}{name}: the catalog has it, and the registry no tags of it"));
            }
            Ok(false) => self.unlisted(&name, no_repository(&name))?,
            Err(error) => self.unlisted(&name, error)?,
        }
        tags.iter().try_for_each(|tag| self.image_in_registry(&format!("{name}:{tag}")))
    }

    /// Goes on without the repository `name`, unless its registry does not answer at all.
    fn unlisted(&mut self, name: &str, error: Error) -> Result<()> {
        if error.may_pass() {
            self.left_out.unlisted_now += 1;
            self.unavailable += 1;
            if self.unavailable >= UNAVAILABLE {
                return Err(error.within(name));
            }
        } else {
            self.left_out.unlisted += 1;
        }
        (self.warn)(&format!("{REGISTRY}{name}: left out, its tags cannot be listed: {error}"));
        Ok(())
    }

    fn image_in_registry(&mut self, name: &str) -> Result<()> {
        let parts = registry::parts(name)?;
        let (host, repository) = (&parts.registry, &parts.repository);
        let tag = parts.digest.as_ref().map_or_else(|| parts.tag.clone(), |digest| digest.replace(':', "-"));
        if !self.wants(format!("{repository}:{tag}")) {
            return Ok(());
        }
        let word = format!("{REGISTRY}{name}");
        let reference = Reference::Registry { name: name.to_owned(), access: self.options.access.clone() };
        let resolved = self.resolved(&word, &reference)?;
        let last = repository.rsplit('/').next();
        let usual = || Template("{registry}/{repository}:{tag}-novsyscall".into());
        let template = self.options.destination.clone().unwrap_or_else(usual);
        let mut destination =
            template.filled([Some(host), Some(repository), Some(&tag), None, last], &word)?;
        let has_transport = destination.split_once(':').is_some_and(|(transport, rest)| {
            rest.starts_with("//") || ["oci", "oci-archive", "docker-archive", "dir"].contains(&transport)
        });
        if !has_transport && !destination.starts_with(['/', '.']) {
            destination.insert_str(0, REGISTRY);
        }
        let source = match &resolved {
            Some(resolved) => format!("{REGISTRY}{host}/{repository}@{}", resolved.digest),
            None => word.clone(),
        };
        self.found_image(resolved, Place { name: word, source, destination: Some(destination) })
    }

    /// The image on a disk or in an engine; each that a layout lists, where none is named. Workers have directories of
    /// their own: names are from the root.
    fn local_image(&mut self, reference: &Reference) -> Result<()> {
        let reference = match reference.clone() {
            Reference::Layout { path, tag } => Reference::Layout { path: real_path(&path), tag },
            Reference::Archive { path, tag } => Reference::Archive { path: real_path(&path), tag },
            Reference::Directory(path) => Reference::Directory(real_path(&path)),
            other => other,
        };
        let (path, tag) = match &reference {
            Reference::Layout { path, tag } | Reference::Archive { path, tag } => {
                (path.as_path(), tag.as_deref())
            }
            Reference::Directory(path) => (path.as_path(), None),
            Reference::Engine(name) => (Path::new(name.as_str()), None),
            Reference::Registry { name, .. } => return self.image_in_registry(name),
        };
        if let Reference::Layout { path, tag: None } = &reference {
            let tags = resolve::tags_of_layout(path).unwrap_or_default();
            if !tags.is_empty() {
                return tags.into_iter().try_for_each(|tag| {
                    self.local_image(&Reference::Layout { path: path.clone(), tag: Some(tag) })
                });
            }
        }
        if let Reference::Archive { path, tag: None } = &reference {
            let images = resolve::names_in_archive(path).unwrap_or_default();
            if images.len() > 1 {
                return self.images_in_archive(path, images);
            }
        }
        // A path that is recognised may hold what a reference may not: a colon.
        let access = &self.options.access;
        let is_recognised = Reference::parse(path.as_os_str(), access)?.as_ref() == Some(&reference);
        let word = if is_recognised { path.display().to_string() } else { reference.to_string() };
        let place = self.local_place(&word, path, tag)?;
        // The same kind of place, and the image by the same name in it.
        let destination = place.destination.map(|word| {
            let Some(tag) = tag.map(str::to_owned) else { return word };
            match reference.output(word.as_ref(), access) {
                Ok(Reference::Layout { path, tag: None }) => {
                    Reference::Layout { path, tag: Some(tag) }.to_string()
                }
                Ok(Reference::Archive { path, tag: None }) => {
                    Reference::Archive { path, tag: Some(tag) }.to_string()
                }
                _ => word,
            }
        });
        let resolved = self.resolved(&word, &reference)?;
        self.found_image(resolved, Place { destination, ..place })
    }

    /// The images of the archive at `path`, which have these names.
    fn images_in_archive(&mut self, path: &Path, images: Vec<Vec<String>>) -> Result<()> {
        let shown = path.display();
        if path.to_str().is_some_and(|path| path.contains(':')) {
            // Behind a colon an image is named.
            (self.warn)(&format!("{shown}: left out: it has several images, and a colon in its path"));
            self.left_out.unnamed += images.len() as u64;
            return Ok(());
        }
        let (named, unnamed): (Vec<_>, Vec<_>) = images.into_iter().partition(|names| !names.is_empty());
        if !unnamed.is_empty() {
            let count = unnamed.len();
            (self.warn)(&format!(
                "{shown}: {count} of its images left out: they have no name to tell them apart"
            ));
            self.left_out.unnamed += count as u64;
        }
        named.into_iter().flatten().try_for_each(|name| {
            self.local_image(&Reference::Archive { path: path.to_owned(), tag: Some(name) })
        })
    }

    /// The place of what is at `path` of a disk. An archive holds one image: that of a `tag` goes to one of its own.
    fn local_place(&self, word: &str, path: &Path, tag: Option<&str>) -> Result<Place> {
        let name = path.file_name().and_then(|name| name.to_str());
        let of_image = tag.filter(|_| !path.is_dir()).map(|tag| format!("-{}", tag.replace(['/', ':'], "-")));
        let usual = || Template(format!("{{path}}{}-novsyscall", of_image.unwrap_or_default()));
        let template = self.options.destination.clone().unwrap_or_else(usual);
        let destination = template.filled([None, None, tag, path.to_str(), name], word)?;
        Ok(Place { name: word.to_owned(), source: word.to_owned(), destination: Some(destination) })
    }

    /// What the documents of an image tell; nothing where they cannot be had now.
    fn resolved(&mut self, word: &str, reference: &Reference) -> Result<Option<resolve::Resolved>> {
        let error = match resolve::resolve(reference) {
            Ok(resolved) => {
                self.unavailable = 0;
                return Ok(Some(resolved));
            }
            Err(error) => error,
        };
        if error.may_pass() {
            self.unavailable += 1;
            if self.unavailable >= UNAVAILABLE {
                return Err(error.within(word));
            }
        }
        (self.warn)(&format!("{word}: not looked up, planned as it is: {error}"));
        Ok(None)
    }

    fn found_image(&mut self, resolved: Option<resolve::Resolved>, place: Place) -> Result<()> {
        if resolved.as_ref().is_some_and(|resolved| resolved.is_artifact) {
            self.left_out.artifacts += 1;
            return Ok(());
        }
        let (digest, layers) = resolved.map(|it| (it.digest, it.layers)).unzip();
        let layers: Vec<(String, u64)> =
            layers.unwrap_or_default().into_iter().map(|(digest, size)| (digest.to_string(), size)).collect();
        let bytes = layers.iter().map(|(_, size)| size).fold(0, |sum: u64, size| sum.saturating_add(*size));
        let digest = digest.map(|digest| digest.to_string());
        (self.take)(Found { kind: Kind::Image, digest, bytes, layers, place })
    }

    /// Every entry of a directory: archives, layouts, programs; other directories are trees.
    fn directory(&mut self, directory: &Path) -> Result<()> {
        let cannot = |error| Error::io(format!("cannot read {}", directory.display()), error);
        for entry in std::fs::read_dir(directory).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(cannot)?);
            if !self.wants(entry.file_name()) {
                continue;
            }
            if !(kind.is_dir() || kind.is_file()) {
                // What they lead to may be an item already, or anywhere.
                self.left_out.links += u64::from(kind.is_symlink());
                continue;
            }
            if path.to_str().is_none() {
                (self.warn)(&no_text(&path).to_string());
                continue;
            }
            if let Some(reference) = Reference::parse(path.as_os_str(), &self.options.access)? {
                self.local_image(&reference)?;
            } else if path.join("manifest.json").is_file() && path.join("version").is_file() {
                self.local_image(&Reference::Directory(path.clone()))?;
            } else if kind.is_dir() {
                self.tree(&path)?;
            } else if File::open(&path).map_or(true, |file| is_candidate(&file)) {
                self.file(&path)?;
            }
        }
        Ok(())
    }

    /// A program; what cannot be opened is found, too, so that it is told of.
    fn file(&mut self, path: &Path) -> Result<()> {
        let read = |file: File| Ok((file.metadata()?.len(), Sha256::read(file)?));
        let summed: std::io::Result<(u64, Sha256)> = File::open(path).and_then(read);
        let (bytes, sum) = summed.map(|(bytes, sum)| (bytes, Some(sum))).unwrap_or_else(|error| {
            (self.warn)(&format!("{}: not looked up, planned as it is: {error}", path.display()));
            (0, None)
        });
        self.on_disk(Kind::File, path, bytes, sum)
    }

    /// A tree. Its digest is of the names, sizes and times of its files: what the whole of a disk holds is not read
    /// twice.
    fn tree(&mut self, path: &Path) -> Result<()> {
        let summed = tree_sum(path, self.options.threads);
        let (bytes, sum) = summed.map(|(bytes, sum)| (bytes, Some(sum))).unwrap_or_else(|error| {
            (self.warn)(&format!("{}: not looked up, planned as it is: {error}", path.display()));
            (0, None)
        });
        self.on_disk(Kind::Tree, path, bytes, sum)
    }

    fn on_disk(&mut self, kind: Kind, path: &Path, bytes: u64, sum: Option<Sha256>) -> Result<()> {
        let path = real_path(path);
        let word = path.to_str().ok_or_else(|| no_text(&path))?;
        let mut place = self.local_place(word, &path, None)?;
        if self.options.in_place {
            place.destination = None;
        }
        let digest = sum.map(|sum| format!("sha256:{sum}"));
        (self.take)(Found { kind, digest, bytes, layers: vec![], place })
    }
}

/// Which images of a registry: `HOST/`, `HOST/team/*`, `HOST/team/*:v*`, `HOST/team/app:*`.
struct Pattern<'a> {
    host: &'a str,
    /// Which repositories, as a pattern; nothing where it is one alone.
    repositories: Option<&'a str>,
    repository: &'a str,
    tags: &'a str,
}

impl<'a> Pattern<'a> {
    /// The pattern `name`; nothing where it names one image.
    fn of(name: &'a str) -> Option<Self> {
        const WILD: [char; 4] = ['*', '?', '[', '{'];
        let (host, rest) = name.split_once('/').unwrap_or((name, ""));
        let is_host =
            host.contains(['.', ':']) || host == "localhost" || rest.is_empty() && name.ends_with('/');
        if rest.is_empty() {
            return is_host.then_some(Self { host, repositories: Some("**"), repository: "", tags: "*" });
        }
        if !rest.contains(WILD) && !rest.ends_with('/') {
            return None;
        }
        let (repository, tags) = rest.split_once(':').unwrap_or((rest, "*"));
        let is_wild = repository.contains(WILD) || repository.ends_with('/');
        Some(Self { host, repositories: is_wild.then_some(repository), repository, tags })
    }
}

fn no_repository(name: &str) -> Error {
    Error::new(ErrorKind::Io, format!("there is no repository {name}")).remedy("check the name")
}

fn no_text(path: &Path) -> Error {
    Error::new(ErrorKind::Usage, format!("{} is no UTF-8 and cannot be in a work list", path.display()))
        .remedy("rename it, or treat it by itself")
}

fn is_candidate(file: &File) -> bool {
    let mut head = [0; glance::MAGIC];
    file.read_exact_at(&mut head, 0).is_ok() && glance::is_candidate(&head)
}

/// The directory of `path`, for temporary files beside it.
#[must_use]
pub fn directory_of(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_several_images_and_a_name_one() {
        let of = |name: &'static str| {
            Pattern::of(name).map(|it| (it.host, it.repositories, it.repository, it.tags))
        };
        assert_eq!(of("host.example/"), Some(("host.example", Some("**"), "", "*")));
        assert_eq!(of("host.example:5000"), Some(("host.example:5000", Some("**"), "", "*")));
        assert_eq!(of("host.example/team/*"), Some(("host.example", Some("team/*"), "team/*", "*")));
        assert_eq!(of("host.example/team/*:v?"), Some(("host.example", Some("team/*"), "team/*", "v?")));
        assert_eq!(of("host.example/team/app:*"), Some(("host.example", None, "team/app", "*")));
        assert_eq!(of("host.example/team/app:1"), None);
        assert_eq!(of("host.example/team/app"), None);
        assert_eq!(of("alpine"), None);
    }

    #[test]
    fn a_destination_has_known_variables_alone() {
        assert!(Template::parse("{registry}/{repositry}:x").is_err());
        assert!(Template::parse("{tag").is_err());
        let template = Template::parse("mirror/{repository}:{tag}-new").unwrap();
        let values = [Some("h"), Some("a/{tag}"), Some("1"), None, None];
        assert_eq!(template.filled(values, "x").unwrap(), "mirror/a/{tag}:1-new");
        assert!(Template::parse("{path}").unwrap().filled(values, "x").is_err());
    }
}
