//! Which part of a work list is a worker's, and who says so.

use super::Head;
use crate::error::{Error, ErrorKind, Result};

/// One part of several that cost about the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which, from 0 on.
    index: u64,
    /// Of how many.
    count: u64,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    fn new(index: u64, count: u64, said_by: &str) -> Result<Self> {
        if index < count {
            return Ok(Self { index, count });
        }
        let message = format!("{said_by}: there is no shard {} of {count}", index.saturating_add(1));
        Err(Error::new(ErrorKind::Usage, message).remedy("say which part with --shard I/N, I from 1 to N"))
    }

    /// `I/N`, with `I` from 1 to `N`.
    ///
    /// # Errors
    /// `Usage` for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let numbers = text.split_once('/').and_then(|(index, count)| {
            Some((index.parse::<u64>().ok()?.checked_sub(1)?, count.parse::<u64>().ok()?))
        });
        let (index, count) = numbers.ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("--shard {text}: no shard"))
                .remedy("say which part with --shard I/N, I from 1 to N")
        })?;
        Self::new(index, count, &format!("--shard {text}"))
    }

    /// The part that the scheduler means which started this process; `shards` is how many there are, where it does not
    /// tell. An array of Slurm does, and both have to say the same. All of it where there is no scheduler. `variable`
    /// gives the environment's.
    ///
    /// # Errors
    /// `Usage` where a scheduler says which part, and nobody of how many, or the other way round, or two say otherwise.
    pub fn of_scheduler(shards: Option<u64>, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str| -> Result<Option<u64>> {
            let Some(text) = variable(name).filter(|text| !text.is_empty()) else { return Ok(None) };
            let no = |_| Error::new(ErrorKind::Usage, format!("{name}={text}: no number"));
            text.parse().map(Some).map_err(no)
        };
        if let Some(task) = number("SLURM_ARRAY_TASK_ID")? {
            let count = number("SLURM_ARRAY_TASK_COUNT")?.unwrap_or(1);
            if let Some(shards) = shards.filter(|shards| *shards != count) {
                let message = format!("--shards {shards}, and the array of Slurm has {count} tasks");
                return Err(Error::new(ErrorKind::Usage, message).remedy(
                    "leave --shards out, for Slurm tells, or say which part this task is with --shard I/N",
                ));
            }
            let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let last = number("SLURM_ARRAY_TASK_MAX")?.unwrap_or(task);
            // With gaps the numbers do not say which task of the array this is.
            let has_gaps = last.saturating_sub(first) / step + 1 > count;
            if task < first || (task - first) % step != 0 || has_gaps {
                let message = format!("SLURM_ARRAY_TASK_ID={task}: the array has gaps");
                return Err(Error::new(ErrorKind::Usage, message).remedy(
                    "number the tasks of an array without gaps, or say which part with --shard I/N",
                ));
            }
            return Self::new((task - first) / step, count, &format!("SLURM_ARRAY_TASK_ID={task}"));
        }
        for (name, first) in [("JOB_COMPLETION_INDEX", 0), ("NOMAD_ALLOC_INDEX", 0), ("PARALLEL_SEQ", 1)] {
            let Some(value) = number(name)? else { continue };
            let said_by = format!("{name}={value}");
            let count = shards.ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("{said_by} says which shard, and nobody of how many"))
                    .remedy("say how many there are with --shards N, or that one does all with --shard 1/1")
            })?;
            return Self::new(value.wrapping_sub(first), count, &said_by);
        }
        match shards {
            None => Ok(Self::WHOLE),
            Some(_) => Err(Error::new(ErrorKind::Usage, "--shards: no scheduler says which of them this is")
                .remedy("say which part with --shard I/N")),
        }
    }

    /// Whether an item is in this part that costs so much, as those `before` it in the list do together: an item is in
    /// the part that its middle is in.
    #[must_use]
    pub fn holds(self, head: &Head, before: u64, cost: u64) -> bool {
        let middle = 2 * u128::from(before) + u128::from(cost);
        let part = middle * u128::from(self.count) / (2 * u128::from(head.cost.max(1)));
        part.min(u128::from(self.count - 1)) == u128::from(self.index)
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(shards: Option<u64>, variables: &[(&str, &str)]) -> Result<String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Shard::of_scheduler(shards, &variable).map(|shard| shard.to_string())
    }

    #[test]
    fn each_scheduler_says_it_in_its_way() {
        assert_eq!(of(None, &[]).unwrap(), "1/1");
        let slurm_of = |shards, id, count, min, max, step| {
            of(
                shards,
                &[
                    ("SLURM_ARRAY_TASK_ID", id),
                    ("SLURM_ARRAY_TASK_COUNT", count),
                    ("SLURM_ARRAY_TASK_MIN", min),
                    ("SLURM_ARRAY_TASK_MAX", max),
                    ("SLURM_ARRAY_TASK_STEP", step),
                ],
            )
        };
        let slurm = |id, count, min, max, step| slurm_of(None, id, count, min, max, step);
        assert_eq!(slurm_of(Some(4), "0", "4", "0", "3", "1").unwrap(), "1/4");
        assert!(slurm_of(Some(8), "0", "4", "0", "3", "1").is_err(), "4 or 8?");
        assert_eq!(slurm("0", "4", "0", "3", "1").unwrap(), "1/4");
        assert_eq!(slurm("4", "4", "1", "4", "1").unwrap(), "4/4");
        assert_eq!(slurm("6", "3", "2", "6", "2").unwrap(), "3/3");
        assert_eq!(slurm("7", "1", "7", "7", "1").unwrap(), "1/1");
        assert!(slurm("7", "3", "1", "7", "1").is_err(), "--array=1,3,7");
        assert!(slurm("3", "2", "1", "3", "1").is_err(), "--array=1,3");
        assert_eq!(of(Some(5), &[("JOB_COMPLETION_INDEX", "4")]).unwrap(), "5/5");
        assert_eq!(of(Some(5), &[("NOMAD_ALLOC_INDEX", "0")]).unwrap(), "1/5");
        assert_eq!(of(Some(5), &[("PARALLEL_SEQ", "5")]).unwrap(), "5/5");
        for bad in ["5", "x", "-1"] {
            assert!(of(Some(5), &[("JOB_COMPLETION_INDEX", bad)]).is_err(), "{bad}");
        }
        assert!(of(Some(5), &[("PARALLEL_SEQ", "0")]).is_err());
        assert!(of(None, &[("JOB_COMPLETION_INDEX", "0")]).is_err(), "of how many?");
        assert!(of(Some(5), &[]).is_err(), "which?");
        for bad in ["0/4", "5/4", "1/0", "x/4", "4", "1/4/2"] {
            assert!(Shard::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_item_is_in_one_part_and_parts_cost_about_the_same() {
        let costs: Vec<u64> = (0..997_u64).map(|n| 1 + n * n % 89).collect();
        let cost: u64 = costs.iter().sum();
        let head = Head { schema: String::new(), items: 997, names: 997, bytes: 0, cost };
        for count in [1, 2, 3, 7, 64, 2000] {
            let mut sums = vec![0; count as usize];
            let mut before = 0;
            for &own in &costs {
                let holders: Vec<u64> =
                    (0..count).filter(|&index| Shard { index, count }.holds(&head, before, own)).collect();
                assert_eq!(holders.len(), 1, "{before} of {count}");
                sums[holders[0] as usize] += own;
                before += own;
            }
            let share = cost / count;
            assert!(sums.iter().all(|&sum| sum.abs_diff(share) <= 89), "{count}: {sums:?}");
        }
    }
}
