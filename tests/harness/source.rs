//! The corpus sources: their directives, and assembling and linking them. See corpus/README.md.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Ran, elf, root};

/// What kind of file a source is linked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Exec,
    Pie,
    StaticPie,
    Dso,
}

/// Which linker did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linker {
    Bfd,
    Gold,
    Lld,
}

/// What is left of the symbols and section headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dress {
    /// As linked.
    Symbols,
    /// After `strip`.
    Stripped,
    /// After `strip`, and without a section header table.
    Headerless,
}

impl Link {
    pub const ALL: [Self; 4] = [Self::Exec, Self::Pie, Self::StaticPie, Self::Dso];

    fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Pie => "pie",
            Self::StaticPie => "static-pie",
            Self::Dso => "dso",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Exec => &[],
            Self::Pie => &["-pie", "-dynamic-linker", "/lib64/ld-linux-x86-64.so.2"],
            Self::StaticPie => &["-static", "-pie", "--no-dynamic-linker"],
            Self::Dso => &["-shared", "-soname", "libcorpus.so.1"],
        }
    }
}

impl Linker {
    pub const ALL: [Self; 3] = [Self::Bfd, Self::Gold, Self::Lld];

    fn name(self) -> &'static str {
        match self {
            Self::Bfd => "bfd",
            Self::Gold => "gold",
            Self::Lld => "lld",
        }
    }
}

impl Dress {
    pub const ALL: [Self; 3] = [Self::Symbols, Self::Stripped, Self::Headerless];

    fn name(self) -> &'static str {
        match self {
            Self::Symbols => "symbols",
            Self::Stripped => "stripped",
            Self::Headerless => "headerless",
        }
    }
}

/// One way to link and strip a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    pub link: Link,
    pub linker: Linker,
    pub dress: Dress,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.link.name(), self.linker.name(), self.dress.name())
    }
}

/// For which variants a directive holds: every axis that it names must agree.
#[derive(Clone, Debug, Default)]
struct Filter {
    links: Vec<Link>,
    linkers: Vec<Linker>,
    dresses: Vec<Dress>,
}

impl Filter {
    fn parse(words: &str, at: &str) -> Self {
        let mut filter = Self::default();
        for word in words.split([',', ' ']).filter(|word| !word.is_empty()) {
            if let Some(link) = Link::ALL.into_iter().find(|link| link.name() == word) {
                filter.links.push(link);
            } else if let Some(linker) = Linker::ALL.into_iter().find(|linker| linker.name() == word) {
                filter.linkers.push(linker);
            } else if let Some(dress) = Dress::ALL.into_iter().find(|dress| dress.name() == word) {
                filter.dresses.push(dress);
            } else {
                panic!("{at}: unknown variant `{word}`");
            }
        }
        filter
    }

    fn holds(&self, variant: Variant) -> bool {
        (self.links.is_empty() || self.links.contains(&variant.link))
            && (self.linkers.is_empty() || self.linkers.contains(&variant.linker))
            && (self.dresses.is_empty() || self.dresses.contains(&variant.dress))
    }
}

/// An `expect` or `may` directive: what the report says of the site with `label`.
#[derive(Clone, Debug)]
pub struct Expect {
    filter: Filter,
    pub label: String,
    /// Field name to its allowed values.
    pub fields: BTreeMap<String, Vec<String>>,
    /// Whether the site must be reported (`expect`), or only must not be reported otherwise (`may`).
    pub required: bool,
}

impl Expect {
    fn parse(filter: Filter, words: &str, required: bool, at: &str) -> Self {
        let mut words = words.split_whitespace();
        let label = words.next().unwrap_or_else(|| panic!("{at}: no label")).to_owned();
        let fields: BTreeMap<_, _> = words
            .map(|word| {
                let (key, values) = word.split_once('=').unwrap_or_else(|| panic!("{at}: `{word}`"));
                let known = ["entry", "form", "verdict", "strategy", "reach", "function"];
                assert!(known.contains(&key), "{at}: unknown field `{key}`");
                (key.to_owned(), values.split('|').map(str::to_owned).collect())
            })
            .collect();
        for key in ["entry", "form", "verdict"] {
            assert!(fields.contains_key(key), "{at}: no `{key}`");
        }
        Self { filter, label, fields, required }
    }

    pub fn allows(&self, key: &str, value: &str) -> bool {
        self.fields.get(key).is_none_or(|values| values.iter().any(|allowed| allowed == value))
    }
}

/// A source of the corpus with its directives.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    path: PathBuf,
    variants: Filter,
    ldflags: Vec<String>,
    expects: Vec<Expect>,
    runs: Vec<(Filter, i32)>,
    pub stub_prefix: Option<Vec<u8>>,
    pub later: Option<String>,
}

/// Where the corpus sources are.
pub fn dir() -> PathBuf {
    root().join("corpus")
}

impl Source {
    pub fn load(name: &str) -> Self {
        let path = dir().join(format!("{name}.s"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut source = Self {
            name: name.to_owned(),
            path,
            variants: Filter::default(),
            ldflags: vec![],
            expects: vec![],
            runs: vec![],
            stub_prefix: None,
            later: None,
        };
        let mut expect_none = false;
        for (index, line) in text.lines().enumerate() {
            let at = format!("{name}.s:{}", index + 1);
            let Some(directive) = line.strip_prefix("#@") else { continue };
            let (head, value) = directive.split_once(':').unwrap_or((directive, ""));
            let (head, value) = (head.trim(), value.trim());
            let (key, filter) = match head.split_once('(') {
                Some((key, words)) => (key, Filter::parse(words.trim_end_matches(')'), &at)),
                None => (head, Filter::default()),
            };
            match key {
                "link" => source.variants.links = Filter::parse(value, &at).links,
                "linker" => source.variants.linkers = Filter::parse(value, &at).linkers,
                "ldflags" => source.ldflags = value.split_whitespace().map(str::to_owned).collect(),
                "expect" => source.expects.push(Expect::parse(filter, value, true, &at)),
                "may" => source.expects.push(Expect::parse(filter, value, false, &at)),
                "expect-none" => expect_none = true,
                "run" => source.runs.push((filter, value.parse().unwrap_or_else(|e| panic!("{at}: {e}")))),
                "stub-prefix" => {
                    source.stub_prefix = Some(hex::decode(value).unwrap_or_else(|e| panic!("{at}: {e}")));
                }
                "later" => source.later = Some(value.to_owned()),
                unknown => panic!("{at}: unknown directive `{unknown}`"),
            }
        }
        assert_eq!(expect_none, source.expects.is_empty(), "{name}.s: `expect`, or else `expect-none`");
        source
    }

    /// Every variant that the source is for.
    pub fn variants(&self) -> Vec<(Link, Linker)> {
        let all = Link::ALL.into_iter().flat_map(|link| Linker::ALL.map(|linker| (link, linker)));
        // gold has no --no-dynamic-linker, so it cannot link a static PIE by itself.
        all.filter(|&pair| pair != (Link::StaticPie, Linker::Gold))
            .filter(|&(link, linker)| {
                Dress::ALL.iter().any(|&dress| self.variants.holds(Variant { link, linker, dress }))
            })
            .collect()
    }

    pub fn expects(&self, variant: Variant) -> impl Iterator<Item = &Expect> {
        self.expects.iter().filter(move |expect| expect.filter.holds(variant))
    }

    /// The status that the program ends with, where it can be run.
    pub fn run(&self, variant: Variant) -> Option<i32> {
        self.runs.iter().find(|(filter, _)| filter.holds(variant)).map(|&(_, status)| status)
    }

    /// Assembles into `dir`, once for all links.
    pub fn assemble(&self, dir: &Path) -> PathBuf {
        let object = dir.join(format!("{}.o", self.name));
        let include = self.path.parent().expect("the corpus directory");
        Ran::of(Command::new("as").arg("-I").arg(include).arg("-o").arg(&object).arg(&self.path)).expect(0);
        object
    }

    /// Links `object` and returns the three files and the sites' addresses by label.
    pub fn link(&self, object: &Path, link: Link, linker: Linker, dir: &Path) -> Linked {
        let linked = dir.join(format!("{}-{}-{}", self.name, link.name(), linker.name()));
        let mut command = Command::new(format!("ld.{}", linker.name()));
        command.args(["--eh-frame-hdr", "-e", "_start"]).args(link.flags()).args(&self.ldflags);
        Ran::of(command.arg("-o").arg(&linked).arg(object)).expect(0);
        let stripped = super::with_suffix(&linked, ".stripped");
        Ran::of(Command::new("strip").arg("-o").arg(&stripped).arg(&linked)).expect(0);
        let headerless = super::with_suffix(&linked, ".headerless");
        let bytes = elf::without_section_headers(&super::read(&stripped));
        fs::write(&headerless, bytes).expect("the headerless file is written");
        let mode = fs::metadata(&stripped).expect("the stripped file").permissions();
        fs::set_permissions(&headerless, mode).expect("its mode can be set");
        Linked { labels: elf::labels(&super::read(&linked)), files: [linked, stripped, headerless] }
    }
}

/// One link of a source.
pub struct Linked {
    /// In the order of [`Dress::ALL`].
    pub files: [PathBuf; 3],
    /// Address of every site by its label.
    pub labels: BTreeMap<String, u64>,
}
