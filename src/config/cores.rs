//! Which CPUs the shards run on, and what is different on some of them.

use toml::de::DeValue;

use crate::config::bounds::BUSY_POLL_US_MAX;
use crate::config::reader::{ConfigError, Section};
use crate::config::units::{self, KIB};
use crate::server::CoreOverride;

/// One table `[[cores]]`: what it does not say is as in `[socket]`.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The CPU that it is about.
    pub cpu: usize,
    /// Where the table stands.
    pub place: String,
    of_core: CoreOverride,
}

impl CoreConfig {
    pub(super) fn read(mut section: Section) -> Result<CoreConfig, ConfigError> {
        let place = section.place().to_string();
        let mut cpu = None;
        section.read("cpu", &mut cpu, |value| units::count(0..=65_535)(value).map(Some))?;
        let mut of_core = CoreOverride::default();
        section.read("connections_max", &mut of_core.connections_max, |value| {
            units::count(1..=1_000_000)(value).map(Some)
        })?;
        section.read("ring_entries", &mut of_core.ring_entries, |value| {
            units::power_of_two(64..=32_768)(value).map(Some)
        })?;
        section.read("table_entries", &mut of_core.table_entries, |value| {
            units::count(16..=1_000_000)(value).map(Some)
        })?;
        section.read("receive_buffers", &mut of_core.receive_buffers, |value| {
            units::power_of_two(16..=32_768)(value).map(Some)
        })?;
        section.read("receive_buffer_bytes", &mut of_core.receive_buffer_bytes, |value| {
            units::bytes(512..=64 * KIB)(value).map(Some)
        })?;
        section.read("busy_poll_us", &mut of_core.busy_poll_us, |value| {
            units::count(0..=BUSY_POLL_US_MAX)(value).map(Some)
        })?;
        section.finish()?;
        let cpu: usize = cpu.ok_or_else(|| section.error("cpu", "is missing"))?;
        Ok(CoreConfig { cpu, place, of_core: CoreOverride { cpu, ..of_core } })
    }

    /// The table, as the server sees it.
    pub fn into_override(self) -> CoreOverride {
        self.of_core
    }
}

/// Parses `0,1` or `0-3` or a mixture, in the order given.
pub(super) fn parse(list: &str) -> Result<Vec<usize>, String> {
    let mut cores = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.trim()
                .parse::<u16>()
                .map_err(|_| format!("`{list}` is not a list like 0,1 or 0-3"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("`{part}` ends before it starts"));
        }
        cores.extend((first..=last).map(usize::from));
    }
    Ok(cores)
}

/// Reads `[0, 1]` or `"0-3"`.
pub(super) fn from_toml(value: &DeValue) -> Result<Vec<usize>, String> {
    match value {
        DeValue::String(list) => parse(list),
        DeValue::Array(list) => {
            let numbers = list.iter().map(|number| units::integer(number.get_ref()));
            match numbers.collect::<Option<Vec<usize>>>() {
                Some(cores) if !cores.is_empty() => Ok(cores),
                _ => Err("wants CPU numbers, such as [0, 1]".into()),
            }
        }
        _ => Err(r#"wants CPUs, such as [0, 1] or "0-3""#.into()),
    }
}

/// The CPUs that this process may run on; cgroups and `taskset` narrow them.
pub(super) fn allowed() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Checks `configured` against `allowed`, or chooses: all but the first where there are more than
/// two, because interrupts and helpers gather there, else all.
pub(super) fn resolve(
    configured: Option<&[usize]>,
    allowed: &[usize],
) -> anyhow::Result<Vec<usize>> {
    let Some(cores) = configured else {
        return Ok(if allowed.len() > 2 { &allowed[1..] } else { allowed }.to_vec());
    };
    for (i, core) in cores.iter().enumerate() {
        if !allowed.contains(core) {
            anyhow::bail!("CPU {core} is not one that this process may run on: {allowed:?}");
        }
        if cores[..i].contains(core) {
            anyhow::bail!("CPU {core} is listed twice; for more shards than CPUs set shards");
        }
    }
    Ok(cores.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_parsed_in_order() {
        assert_eq!(parse("0,1").unwrap(), [0, 1]);
        assert_eq!(parse("4-6, 1").unwrap(), [4, 5, 6, 1]);
        for list in ["", "x", "1-", "-1", "3-1", "1,,2", "99999999"] {
            assert!(parse(list).is_err(), "{list}");
        }
    }

    #[test]
    fn one_cpu_is_left_to_the_system_where_there_are_more_than_two() {
        assert_eq!(resolve(None, &[0, 1]).unwrap(), [0, 1]);
        assert_eq!(resolve(None, &[0, 1, 2]).unwrap(), [1, 2]);
        assert_eq!(resolve(Some(&[2, 0]), &[0, 1, 2]).unwrap(), [2, 0]);
        assert!(resolve(Some(&[7]), &[0, 1]).is_err());
        assert!(resolve(Some(&[1, 1]), &[0, 1]).is_err());
    }
}
