//! Runs a program, lets every vsyscall pass that it and its children make, and tells where they came from; each
//! is held against what a scan of the file lists.
//!
//! The kernel asks before each call ([`crate::watch`]), and the return address is read from the top of the stack.

pub mod caller;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::Command;

use crate::addr::{FileOffset, Vaddr};
use crate::digest::Sha256;
use crate::elf::{Parsed, parse};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::site::Form;
use crate::vsyscall::Entry;
use crate::watch::process::{Place, Thread};
use crate::watch::{self, Ended};
use caller::{By, Caller};

/// What a program was seen to do.
#[derive(Debug)]
pub struct Trace {
    /// How it ended.
    pub ended: Ended,
    /// The files that called, by path.
    pub files: Vec<CallingFile>,
    /// Calls from code that is in no file, or whose origin could not be read, with the reason.
    pub unknown: HashMap<(Entry, String), u64>,
    /// Number of processes that made calls.
    pub processes: usize,
}

/// A file with calls.
#[derive(Debug)]
pub struct CallingFile {
    /// As the kernel names it.
    pub path: PathBuf,
    /// Its checksum; nothing where it could not be read.
    pub sha256: Option<Sha256>,
    /// Its build-id, in hex.
    pub build_id: Option<String>,
    /// The places that called, by offset.
    pub calls: Vec<Calls>,
}

/// A place that called.
#[derive(Debug)]
pub struct Calls {
    /// Where the call returned to: behind the call, or behind that of the function that jumped into the page.
    pub returned_to: FileOffset,
    /// The same as an address of the file.
    pub vaddr: Option<Vaddr>,
    /// The function that called, where its name is known.
    pub function: Option<String>,
    /// What was called.
    pub entry: Entry,
    /// How often.
    pub count: u64,
    /// The site that scan lists for it, or why none of them explains it.
    pub explained: std::result::Result<Explained, String>,
}

/// How a scan explains a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// How the call belongs to a site.
    pub by: By,
    /// Address of the site; nothing where the address may come from several.
    pub site: Option<Vaddr>,
    /// Its form.
    pub form: Option<Form>,
}

impl Trace {
    /// Number of calls.
    #[must_use]
    pub fn count(&self) -> u64 {
        let known = self.files.iter().flat_map(|file| &file.calls).map(|calls| calls.count);
        known.chain(self.unknown.values().copied()).sum()
    }

    /// Calls from places that a scan does not list: each of them is a mistake of the scan.
    pub fn unexplained(&self) -> impl Iterator<Item = (&CallingFile, &Calls)> {
        let calls = self.files.iter().flat_map(|file| file.calls.iter().map(move |calls| (file, calls)));
        calls.filter(|(_, calls)| calls.explained.is_err())
    }
}

/// Runs `command` until the last process that it started has ended.
///
/// # Errors
/// `Usage` where this kernel does not emulate vsyscalls, so that there are none to see; `Io` where the program cannot
/// be run, or watched.
pub fn trace(command: Command) -> Result<Trace> {
    match watch::emulates() {
        Some(true) => {}
        Some(false) => {
            let what = "this kernel has no vsyscalls (vsyscall=none): a program that makes one gets SIGSEGV from \
                        the processor, before anybody could be asked, so there is nothing to trace here";
            return Err(Error::new(ErrorKind::Usage, what)
                .remedy("`vsyspatch scan` finds the calls on any host; to trace, boot with vsyscall=xonly"));
        }
        None => {
            let what = "/proc/self/maps cannot be read, and callers are found through /proc";
            return Err(Error::new(ErrorKind::Io, what).remedy("mount -t proc proc /proc"));
        }
    }
    let watched = watch::start(command, None).map_err(|error| {
        error.remedy("trace needs Linux 5.5, and no other tracer of system calls around it")
    })?;
    let mut seen = Seen::default();
    let ended = watched.until_end(|listener, question| {
        let thread = Thread::new(question.thread);
        let origin = seen.origin(thread);
        // A signal may have come in between: then the call is made again, or the thread is gone.
        if listener.is_waiting(question) {
            seen.count(thread, Entry::at(question.instruction_pointer), origin);
            listener.let_pass(question)?;
        }
        Ok(())
    });
    let ended = ended.map_err(|error| {
        Error::io("cannot watch the program", error).remedy("trace needs Linux 5.5 or later")
    })?;
    Ok(seen.told(ended))
}

/// Name and inode of a file.
type FileKey = (PathBuf, u64);

/// Offset that calls returned to, what they called, how often.
type Count = (u64, Entry, u64);

/// What was seen, call by call.
#[derive(Debug, Default)]
struct Seen {
    counts: HashMap<(Place, Entry), u64>,
    /// Opened when the file first called: later it may have another name, or none.
    files: HashMap<FileKey, Option<File>>,
    unknown: HashMap<(Entry, String), u64>,
    processes: BTreeSet<u32>,
}

impl Seen {
    /// Where the call that `thread` waits for comes from.
    fn origin(&mut self, thread: Thread) -> std::result::Result<Place, String> {
        let unreadable = |error: io::Error| format!("the caller cannot be looked at: {error}");
        let address = thread.return_address().map_err(unreadable)?;
        let place = thread.place(address).map_err(unreadable)?.ok_or("the caller is in no file")?;
        let file = (place.path.clone(), place.inode);
        self.files.entry(file).or_insert_with(|| thread.open(&place));
        Ok(place)
    }

    fn count(&mut self, thread: Thread, entry: Option<Entry>, origin: std::result::Result<Place, String>) {
        let Some(entry) = entry else { return };
        self.processes.extend(thread.process());
        let count = match origin {
            Ok(place) => self.counts.entry((place, entry)).or_default(),
            Err(reason) => self.unknown.entry((entry, reason)).or_default(),
        };
        *count += 1;
    }

    /// Everything, held against what scans list.
    fn told(self, ended: Ended) -> Trace {
        let mut calls: HashMap<FileKey, Vec<Count>> = HashMap::new();
        for ((place, entry), count) in self.counts {
            calls.entry((place.path, place.inode)).or_default().push((place.offset, entry, count));
        }
        let mut opened = self.files;
        let told = |(key, mut calls): (FileKey, Vec<Count>)| {
            calls.sort_unstable();
            let file = opened.remove(&key).flatten();
            CallingFile::of(key.0, file, &calls)
        };
        let mut files: Vec<CallingFile> = calls.into_iter().map(told).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Trace { ended, files, unknown: self.unknown, processes: self.processes.len() }
    }
}

impl CallingFile {
    fn of(path: PathBuf, file: Option<File>, calls: &[Count]) -> Self {
        let bytes = file.ok_or_else(|| "the file cannot be opened".to_owned()).and_then(read);
        let (sha256, image) = match &bytes {
            Ok(bytes) => match parse(bytes) {
                Ok(Parsed::Image(image)) => (Some(Sha256::of(bytes)), Ok(image)),
                Ok(_) => (Some(Sha256::of(bytes)), Err("the file is no program for x86-64".to_owned())),
                Err(error) => (Some(Sha256::of(bytes)), Err(error.to_string())),
            },
            Err(why) => (None, Err(why.clone())),
        };
        let build_id = image.as_ref().ok().and_then(|image| image.identity.build_id.clone());
        let plan = image.as_ref().ok().map(|image| crate::plan_elf(image));
        let caller = image.as_ref().ok().zip(plan.as_ref()).map(|(image, plan)| Caller::new(image, plan));
        let told = |&(offset, entry, count): &Count| {
            let returned_to = FileOffset(offset);
            let vaddr = caller.as_ref().and_then(|caller| caller.address(returned_to));
            let function = caller.as_ref().zip(vaddr).and_then(|(caller, vaddr)| caller.name(vaddr));
            let explained = match (&caller, &plan, &image) {
                (Some(caller), Some(plan), _) => caller.belongs(returned_to, entry).map(|(by, site)| {
                    let site = site.and_then(|site| plan.sites.get(site));
                    Explained { by, site: site.map(|site| site.vaddr), form: site.map(|site| site.form) }
                }),
                (.., image) => Err(image.as_ref().err().cloned().unwrap_or_default()),
            };
            Calls { returned_to, vaddr, function: function.map(str::to_owned), entry, count, explained }
        };
        Self { path, sha256, build_id, calls: calls.iter().map(told).collect() }
    }
}

fn read(file: File) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = vec![];
    let read = file.take(limits::FILE_BYTES).read_to_end(&mut bytes);
    read.map_err(|error| format!("the file cannot be read: {error}"))?;
    Ok(bytes)
}
