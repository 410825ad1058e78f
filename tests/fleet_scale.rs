//! Memory for a work list does not grow with it: planned, cut into shards and summed up with far more items than are
//! held. Alone in its process, for the process's memory is what is measured.
//!
//! `VSYSPATCH_FLEET_ITEMS` is the number of items; a million take a minute of an optimised build.

mod harness;

use std::fs;
use std::path::Path;
use std::time::Instant;

use vsyspatch::fleet::gather::Found;
use vsyspatch::fleet::merge;
use vsyspatch::fleet::plan::{ITEM_COST, Planner};
use vsyspatch::fleet::results::{ItemResult, Results, Written};
use vsyspatch::fleet::run::WorkList;
use vsyspatch::fleet::shard::Shard;
use vsyspatch::fleet::{Action, Item, Kind, Place, RESULT_SCHEMA, Status, TOOL};
use vsyspatch::plan::Via;
use vsyspatch::report::summary::Summary;

const ITEMS: u64 = 100_000;

/// Of so many items one has a result.
const DONE: u64 = 50;

/// Bytes that the whole may take, however many items there are: two sorters that hold 32 MB each at a time, and the rest.
/// A million items took 92 MiB, a hundred thousand 78 MiB; lines and keys of these are about 140 MB.
const MEMORY: u64 = 128 << 20;

/// Most bytes that this process has had.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line");
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    kilobytes << 10
}

/// An image on one of a thousand bases; two names of ten thousand are of one content.
fn found(number: u64) -> Found {
    let digest = |kind: &str, number: u64| {
        format!("sha256:{}", harness::sha256(format!("{kind} {number}").as_bytes()))
    };
    let content = if number % 10_000 == 9_999 { number - 1 } else { number };
    let layers = [("base", content * 7 % 1000), ("middle", content * 7 % 5000), ("top", content)];
    let layers: Vec<(String, u64)> = layers.map(|(kind, number)| (digest(kind, number), 1 << 20)).to_vec();
    let name = format!("docker://registry.example/team{}/app{number}", number % 100);
    let place = Place {
        source: format!("{name}@{}", digest("image", content)),
        destination: Some(format!("{name}:v1-novsyscall")),
        name: format!("{name}:v1"),
    };
    let bytes = layers.iter().map(|(_, size)| size).sum();
    Found { kind: Kind::Image, digest: Some(digest("image", content)), bytes, layers, place }
}

fn result(item: &Item) -> ItemResult {
    let written = |place: &Place| Written {
        name: place.name.clone(),
        destination: place.destination.clone(),
        output: place.destination.clone(),
    };
    ItemResult {
        schema: RESULT_SCHEMA.into(),
        id: item.id.clone(),
        kind: Kind::Image,
        digest: item.digest.clone(),
        action: Action::Patch,
        via: Via::default(),
        tool: TOOL.into(),
        status: Status::Patched,
        places: item.places.iter().map(written).collect(),
        bytes: 1,
        summary: Summary::default(),
        layers_known: 2,
        seconds: 0.25,
        error: None,
    }
}

#[test]
fn memory_does_not_grow_with_the_list() {
    let count = std::env::var("VSYSPATCH_FLEET_ITEMS").map_or(ITEMS, |text| text.parse().expect("a number"));
    let dir = harness::temp_dir();
    let list = dir.path().join("work.jsonl");
    let begun = Instant::now();
    let mut planner = Planner::new(Some(&list));
    for number in 0..count {
        planner.add(&found(number)).expect("taken");
    }
    let counts = planner.finish(Some(&list)).expect("written");
    let planned = begun.elapsed();
    assert_eq!((counts.items, counts.names), (count - count / 10_000, count));
    // Every base and middle is read once.
    let (bases, middles) = (1000.min(count), 5000.min(count));
    assert_eq!(counts.cost, ((counts.items + bases + middles) << 20) + ITEM_COST * count);

    const SHARDS: u64 = 64;
    let open = |path: &Path| WorkList::open(path).expect("a list");
    let head = open(&list).head;
    let shards: Vec<Shard> =
        (1..=SHARDS).map(|index| Shard::parse(&format!("{index}/{SHARDS}")).expect("a shard")).collect();
    let results = Results::new(dir.path().join("results"));
    let (mut costs, mut before, mut at, mut done) = (vec![0; SHARDS as usize], 0, 0, 0);
    let begun = Instant::now();
    for (number, item) in open(&list).enumerate() {
        let item = item.expect("an item");
        while !shards[at].holds(&head, before, item.cost) {
            at += 1;
        }
        costs[at] += item.cost;
        before += item.cost;
        if (number as u64).is_multiple_of(DONE) {
            results.put(&result(&item)).expect("written");
            done += 1;
        }
    }
    let cut = begun.elapsed();
    assert_eq!((before, at), (head.cost, shards.len() - 1));
    let share = head.cost / SHARDS;
    let dearest = 5 * ITEM_COST;
    assert!(costs.iter().all(|cost| cost.abs_diff(share) <= dearest), "{share}: {costs:?}");

    let begun = Instant::now();
    let mut merged = merge::merge(&[results], Some(open(&list))).expect("merged");
    assert_eq!((merged.totals.items, merged.totals.results), (counts.items, done));
    assert_eq!(merged.totals.missing, Some(counts.items - done));
    assert_eq!(merged.open().expect("read").count() as u64, counts.items - done);
    let summed = begun.elapsed();
    let list = fs::metadata(&list).expect("there").len() >> 20;
    let peak = peak();
    eprintln!(
        "{count} items, a list of {list} MiB: planned {planned:.1?}, cut and {done} results written {cut:.1?}, \
         summed up {summed:.1?}, at most {} MiB of memory",
        peak >> 20
    );
    assert!(peak < MEMORY, "{peak} bytes of memory");
}
