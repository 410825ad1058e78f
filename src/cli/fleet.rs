//! `fleet plan`, `fleet run`, `fleet merge`: their words, and what they say.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};

use super::args::{Common, Memory, Registry, Walk, Way};
use super::output::Output;
use crate::error::{Error, Result};
use crate::fleet::gather::{self, Gatherer, Template};
use crate::fleet::merge;
use crate::fleet::plan::Planner;
use crate::fleet::results::Results;
use crate::fleet::run::{self, Step, WorkList};
use crate::fleet::shard::Shard;
use crate::fleet::{self, Item};
use crate::image::epoch::{self, Epoch};
use crate::image::{Cache, Context};
use crate::outcome::Status;
use crate::report::escape::Escaped;
use crate::report::fleet as report;
use crate::report::text;
use crate::store::NewFile;

const AFTER: &str = "\
  vsyspatch fleet plan docker://registry.example/team/* -o work.jsonl
  vsyspatch fleet run work.jsonl --results results --shard 1/8      # on each of eight machines, as often as needed
  vsyspatch fleet merge results --work work.jsonl";

/// `fleet plan|run|merge`
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Fleet {
    /// Which of the three.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find what there is, and write a work list
    Plan(Plan),
    /// Do a worker's share of a work list; what is done already is passed over
    Run(Run),
    /// Sum up the results of all workers
    Merge(Merge),
}

/// `fleet plan SOURCE... -o WORK.jsonl`
#[derive(Debug, clap::Args)]
struct Plan {
    /// docker://HOST/ (all of a registry), docker://HOST/team/*[:TAGS], docker://HOST/NAME:* or single images;
    /// directories of archives, layouts, programs and trees; files with a reference on each line (-: stdin)
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<PathBuf>,
    /// The work list to write
    #[arg(short, long, value_name = "WORK.jsonl", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// Count only, write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Where results go; {registry} {repository} {tag} of images in registries, {path} of all else, {name} of both
    /// [default: {registry}/{repository}:{tag}-novsyscall, {path}-novsyscall]
    #[arg(long, value_name = "TEMPLATE")]
    destination: Option<String>,
    /// Replace programs and trees instead
    #[arg(short, long)]
    in_place: bool,
    /// Tell what each of so many shards costs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    shards: Option<u64>,
    /// Only images REPOSITORY:TAG, and entries of directories, that match
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// None that match
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    #[command(flatten)]
    registry: Registry,
}

const AFTER_RUN: &str = "\
The shard is what --shard says, or else the scheduler that started this: SLURM_ARRAY_TASK_ID and _COUNT, or with --shards
JOB_COMPLETION_INDEX (Kubernetes), NOMAD_ALLOC_INDEX or PARALLEL_SEQ (GNU parallel). Without any it is all of the list.
In an array of Slurm --shards is an error unless it is the number of its tasks.

Exit status: 0 every item of the shard has its result, whatever it says (merge tells that); 2 an item failed, and would
again; 3 an item failed, or a result could not be written, and running the same again may help.";

/// `fleet run WORK.jsonl --results DIR`
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_RUN)]
struct Run {
    /// The work list
    #[arg(value_name = "WORK.jsonl")]
    work: PathBuf,
    /// Directory for results, the same for all workers
    #[arg(long, value_name = "DIR")]
    results: PathBuf,
    /// What to do with each item
    #[arg(long, value_name = "ACTION", value_enum, default_value_t = Action::Patch)]
    action: Action,
    /// Which part of the list, I from 1 to N
    #[arg(long, value_name = "I/N", conflicts_with = "shards")]
    shard: Option<String>,
    /// How many parts there are, where the scheduler says only which one this is
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    shards: Option<u64>,
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    registry: Registry,
}

/// What is done with each item.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Action {
    Scan,
    Patch,
    Verify,
    Revert,
}

const AFTER_MERGE: &str = "\
Exit status, the worst of all items: 0 all is done; 1 something refused, or a finding; 3 an item is missing, or failed and
may pass: run again; 2 an item failed, and would again.";

/// `fleet merge DIR`
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_MERGE)]
struct Merge {
    /// Directories of results; of an item that several have, one counts
    #[arg(value_name = "DIR", required = true)]
    results: Vec<PathBuf>,
    /// The work list: what it holds and no result is there for is missing
    #[arg(long, value_name = "WORK.jsonl")]
    work: Option<PathBuf>,
    /// Write a page for a person to this file, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs one of the three.
///
/// # Errors
/// Those of stdout.
pub fn fleet(fleet: Fleet, common: &Common, output: &Output) -> io::Result<Status> {
    let said = match fleet.command {
        Command::Plan(words) => plan(&words, common, output),
        Command::Run(words) => run(&words, common, output),
        Command::Merge(words) => merge(&words, common, output),
    };
    said.unwrap_or_else(|error| {
        output.message(&text::message(&error.to_string()));
        Ok(if error.may_pass() { Status::Unavailable } else { Status::Failed })
    })
}

fn plan(words: &Plan, common: &Common, output: &Output) -> Result<io::Result<Status>> {
    let walk =
        super::run::tree_options(Path::new(""), &Walk::default(), None, &super::args::Keep::default())?;
    let options = gather::Options {
        access: words.registry.access(),
        filter: crate::tree::filter::Filter::new(&words.include, &words.exclude)?,
        destination: words.destination.as_deref().map(Template::parse).transpose()?,
        in_place: words.in_place,
        threads: walk.walk.threads,
    };
    let to = words.output.as_deref().filter(|_| !words.dry_run);
    let mut planner = Planner::new(to);
    let mut take = |found| planner.add(&found);
    let mut warn = |warning: &str| output.message(&text::message(warning));
    let mut gatherer = Gatherer {
        options: &options,
        take: &mut take,
        warn: &mut warn,
        unavailable: 0,
        left_out: gather::LeftOut::default(),
    };
    gatherer.sources(&words.sources)?;
    let left_out = gatherer.left_out;
    let mut counts = planner.finish(to)?;
    counts.artifacts = left_out.artifacts;
    counts.links = left_out.links;
    counts.unnamed = left_out.unnamed;
    counts.unlisted = left_out.unlisted + left_out.unlisted_now;
    counts.sources_failed = left_out.sources + left_out.sources_now;
    // Planning again helps what may pass; the rest is planned.
    let (stays, may_pass) = (
        left_out.unlisted + left_out.sources + left_out.unnamed,
        left_out.unlisted_now + left_out.sources_now,
    );
    let status = match (stays, may_pass) {
        (0, 0) => Status::Clean,
        (_, 0) => Status::Failed,
        _ => Status::Unavailable,
    };
    let told = if common.json { report::plan_json(&counts) } else { report::plan(&counts, words.shards) };
    if common.quiet && !common.json {
        return Ok(Ok(status));
    }
    Ok(output.result(&told).map(|()| status))
}

fn run(words: &Run, common: &Common, output: &Output) -> Result<io::Result<Status>> {
    let variable = |name: &str| std::env::var(name).ok();
    let shard = match &words.shard {
        Some(shard) => Shard::parse(shard)?,
        None => Shard::of_scheduler(words.shards, &variable)?,
    };
    let action = match words.action {
        Action::Scan => fleet::Action::Scan,
        Action::Patch => fleet::Action::Patch,
        Action::Verify => fleet::Action::Verify,
        Action::Revert => fleet::Action::Revert,
    };
    let walk =
        super::run::tree_options(Path::new(""), &Walk::default(), None, &super::args::Keep::default())?;
    let epoch = std::env::var_os(epoch::VARIABLE).map(|value| Epoch::parse(&value)).transpose()?;
    let options = run::Options {
        action,
        shard,
        results: Results::new(words.results.clone()),
        access: words.registry.access(),
        context: Context {
            cache: words.memory.cache().map(Cache::for_many),
            epoch,
            via: words.way.resolve(),
            ..Context::default()
        },
        walk: walk.walk,
    };
    let (mut now, mut before, mut failed, mut passing) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut stdout = Ok(());
    let mut tell = |item: &Item, step: Step| {
        let Step::Now(result) = step else {
            before += 1;
            return Ok(());
        };
        now += 1;
        let name = Escaped::text(&item.places[0].name).to_string();
        if let Some(error) = &result.error {
            failed += 1;
            passing += u64::from(error.may_pass);
            output.message(&text::message(&format!("{name}: {}", error.message)));
        }
        if !common.quiet && !common.json && stdout.is_ok() {
            stdout = output.result(&format!("{}  {name}\n", result.status));
        }
        Ok(())
    };
    let ended = run::run(WorkList::open(&words.work)?, &options, &mut tell);
    let sum = format!(
        "shard {shard}: {now} done now, {before} before, {failed} failed, {passing} of them may pass\n"
    );
    if common.json {
        let sum = serde_json::json!({ "schema": "vsyspatch.shard/1", "shard": shard.to_string(), "now": now,
            "before": before, "failed": failed, "may_pass": passing });
        stdout = stdout.and_then(|()| output.result(&format!("{sum}\n")));
    } else if !common.quiet {
        stdout = stdout.and_then(|()| output.result(&sum));
    }
    ended?;
    // What may pass comes first: whoever runs this again does what would fail again a second time, and loses nothing.
    let status = match (passing, failed) {
        (0, 0) => Status::Clean,
        (0, _) => Status::Failed,
        _ => Status::Unavailable,
    };
    Ok(stdout.map(|()| status))
}

fn merge(words: &Merge, common: &Common, output: &Output) -> Result<io::Result<Status>> {
    let list = words.work.as_deref().map(WorkList::open).transpose()?;
    let directories = words.results.iter().map(|path| merge::directory(path)).collect::<Result<Vec<_>>>()?;
    let mut merged = merge::merge(&directories, list)?;
    let status = merged.totals.status();
    if let Some(path) = &words.html {
        let mut file = NewFile::create(path)?;
        let mut page = io::BufWriter::new(&mut file);
        let cannot = |error| Error::io(format!("cannot write {}", path.display()), error);
        report::write_html(&mut merged, &mut page).map_err(cannot)?;
        page.into_inner().map_err(|error| cannot(error.into_error()))?;
        file.commit()?;
    }
    let mut stdout = io::BufWriter::new(output.stdout());
    let written = match (common.json, common.quiet) {
        (true, _) => report::write_json(&mut merged, &mut stdout),
        (false, false) => report::write_text(&mut merged, common.verbose, &mut stdout),
        (false, true) => Ok(()),
    };
    Ok(written.and_then(|()| io::Write::flush(&mut stdout)).map(|()| status))
}
