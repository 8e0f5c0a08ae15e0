//! Which CPUs the shards run on.

use toml::de::DeValue;

use crate::config::units;

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
