//! Work lists of fleets, what they are of, and results.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::image::{LAYER, LIBRARY, Layout, OTHER, PROGRAM, Registry, digest, files};
use super::schema::{assert_follows, compiled};
use super::{Ran, temp_dir, vsyspatch};

/// A directory with a work list, what it is of, and results.
pub struct Fleet {
    pub dir: tempfile::TempDir,
}

impl Fleet {
    pub fn new() -> Self {
        Self { dir: temp_dir() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command in the directory, started by no scheduler.
    pub fn command(&self, words: &str) -> Command {
        let mut command = vsyspatch();
        command.current_dir(self.dir.path()).arg("fleet").args(words.split_whitespace());
        for name in ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "NOMAD_ALLOC_INDEX", "PARALLEL_SEQ"] {
            command.env_remove(name);
        }
        command
    }

    pub fn fleet(&self, words: &str) -> Ran {
        Ran::of(&mut self.command(words))
    }

    /// What `merge` says of the results in `directories`.
    #[track_caller]
    pub fn totals(&self, directories: &str) -> Value {
        let merged = self.fleet(&format!("merge {directories} --work work.jsonl --json"));
        merged.json()
    }

    pub fn items(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("work.jsonl")).expect("a work list");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let schema = compiled(include_str!("../schema/work-1.json"));
        lines.iter().for_each(|line| assert_follows(&schema, line));
        assert!(lines[0].get("schema").is_some(), "the head comes first");
        lines[1..].to_vec()
    }
}

/// Names and contents of all results, which follow their schema, without what differs from run to run.
pub fn results(directory: &Path) -> Vec<(String, Value)> {
    let schema = compiled(include_str!("../schema/result-1.json"));
    let mut all = Vec::new();
    let buckets = fs::read_dir(directory).expect("results").flatten();
    // The cache of layers may be beside them.
    for bucket in buckets.filter(|bucket| bucket.file_name().len() == 2) {
        for file in fs::read_dir(bucket.path()).expect("a bucket").flatten() {
            // What a killed worker was about to rename.
            if file.file_name().to_string_lossy().starts_with(".vsyspatch-") {
                continue;
            }
            let mut result: Value = serde_json::from_slice(&super::read(&file.path())).expect("whole");
            assert_follows(&schema, &result);
            result["seconds"] = Value::Null;
            result["layers_known"] = Value::Null;
            // A worker that was killed behind the write finds a file or a tree patched already, and no site in it.
            if result["kind"] != "image" {
                result["summary"] = Value::Null;
            }
            all.push((file.file_name().into_string().expect("text"), result));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

pub fn layout(dir: &Path, name: &str, layers: &[(&str, &[u8], &[u8])]) -> Layout {
    let layout = Layout::new(dir, name);
    let root = layout.manifest("amd64", layers);
    layout.finish(root);
    layout
}

/// Layouts of images: of two bases, each with a layer of its own; every fifth is clean. `put` gets the name of each, and
/// its layout.
pub fn many_images(dir: &Path, count: usize, mut put: impl FnMut(&str, &Layout)) {
    let noise: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let bases =
        [files(&[("bin/program", PROGRAM), ("noise", &noise)]), files(&[("lib/library.so", LIBRARY)])];
    let clean = files(&[("etc/motd", b"nothing")]);
    for number in 0..count {
        let own = files(&[("number", number.to_string().as_bytes())]);
        let base = if number % 5 == 4 { &clean } else { &bases[number % 2] };
        let kind = format!("{LAYER}+gzip");
        let [base_blob, own_blob] = [base, &own].map(|tar| compressed(tar));
        let layers = [(&kind[..], &base_blob[..], &base[..]), (&kind, &own_blob, &own)];
        put(&format!("team{}/app{number}", number % 3), &layout(dir, &format!("made-{number}"), &layers));
    }
}

fn compressed(tar: &[u8]) -> Vec<u8> {
    let mut blob = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    blob.write_all(tar).expect("compressed");
    blob.finish().expect("compressed")
}

/// A real registry with so many images, and which these are: of each twenty one has a layer that is encrypted, one a layer
/// that the registry lost, and the others are [`many_images`]. The first has three tags.
pub fn real_registry(fleet: &Fleet, count: usize) -> (Registry, Value) {
    let registry = Registry::start(fleet.dir.path());
    let (odd, usual) = (count / 20, count - 2 * (count / 20));
    many_images(&fleet.path(""), usual, |name, layout| {
        let tags = if name == "team0/app0" { &["v1", "latest", "stable"][..] } else { &["v1"] };
        registry.push(layout, name, tags);
    });
    for number in 0..odd {
        let top = files(&[("lib/other", OTHER), ("odd", number.to_string().as_bytes())]);
        let sealed = format!("{LAYER}+encrypted");
        let image = layout(&fleet.path(""), &format!("sealed{number}"), &[(&sealed, &top, &top)]);
        registry.push(&image, &format!("team2/sealed{number}"), &["v1"]);
    }
    for number in 0..odd {
        let top = files(&[("lib/other", OTHER), ("lost", number.to_string().as_bytes())]);
        let image = layout(&fleet.path(""), &format!("lost{number}"), &[(LAYER, &top, &top)]);
        registry.push(&image, &format!("team1/lost{number}"), &["v1"]);
        registry.lose(&digest(&top));
    }
    let clean = usual / 5;
    let statuses = json!({ "clean": clean, "patched": usual - clean, "refused": odd, "failed": odd });
    (registry, statuses)
}
