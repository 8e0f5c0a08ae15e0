//! Judgements: what a configuration wants, beside what the host is like. No I/O.

use super::facts::Facts;
use super::plan::{Beside, Plan, size};
use super::{Finding, Severity};
use crate::server::ServerConfig;
use crate::sys::probe::Lack;

/// Packets that may wait on loopback before a fan-out to thousands of sockets is dropped in part.
const LOOPBACK_BACKLOG: u64 = 10_000;

/// Every check that needs no trial.
pub(super) fn run(config: &ServerConfig, facts: &Facts) -> Vec<Finding> {
    let plan = Plan::new(config, Beside::default(), facts);
    let mut findings = io_uring(facts);
    findings.push(locked_memory(config, &plan, facts));
    findings.push(open_files(&plan, facts));
    findings.push(tables(config, facts));
    findings.extend(backlog(config, facts));
    findings.extend(loopback(config, facts));
    findings.extend(kernel_memory(config, &plan, facts));
    findings.extend(memory(&plan, facts));
    findings.extend(config.tls.as_ref().and_then(|_| kernel_tls(facts)));
    findings.extend(cpus(config, facts));
    findings.extend(clock(facts));
    findings
}

/// The kernel, a sysctl or a filter may stand in the way.
pub(super) fn io_uring(facts: &Facts) -> Vec<Finding> {
    let check = "io_uring";
    let Err(lack) = &facts.io_uring else {
        return vec![Finding::ok(check, format!("Linux {} has what it takes", facts.kernel))];
    };
    let why = "the daemon moves all its sockets through io_uring and has no other way";
    let finding = match lack {
        Lack::Permission => match facts.io_uring_disabled {
            Some(2) => Finding::error(
                check,
                "it is switched off for everybody: kernel.io_uring_disabled = 2",
                why,
                &[
                    "sysctl -w kernel.io_uring_disabled=0",
                    "echo 'kernel.io_uring_disabled = 0' > /etc/sysctl.d/90-ringcast.conf    # for good",
                ],
            ),
            Some(1) => Finding::error(
                check,
                "it is only for members of a group: kernel.io_uring_disabled = 1",
                why,
                &[
                    "sysctl kernel.io_uring_group    # the group; SupplementaryGroups= in the unit joins it",
                    "sysctl -w kernel.io_uring_disabled=0",
                ],
            ),
            _ => {
                let filter = if facts.is_filtered { "a seccomp filter" } else { "something" };
                Finding::error(
                    check,
                    format!(
                        "{filter} refuses io_uring_setup, and kernel.io_uring_disabled does not"
                    ),
                    why,
                    &[
                        "podman run --security-opt seccomp=ringcast-seccomp.json ...    # systemd/packaging/container/",
                        "systemctl show -p SystemCallFilter ringcast    # @aio has to be in it",
                    ],
                )
            }
        },
        Lack::IoUring => Finding::error(
            check,
            format!("Linux {} was built without it, or a filter says so", facts.kernel),
            why,
            &[
                "grep CONFIG_IO_URING /boot/config-$(uname -r)",
                "podman run --security-opt seccomp=ringcast-seccomp.json ...    # systemd/packaging/container/",
            ],
        ),
        Lack::Age => Finding::error(
            check,
            format!("Linux {} is too old: deferred task runs came with 6.1", facts.kernel),
            why,
            &["apt install linux-image-amd64    # Debian 12 and later have 6.1"],
        ),
        Lack::Operations(names) => Finding::error(
            check,
            format!("Linux {} lacks: {}", facts.kernel, names.join(", ")),
            why,
            &["apt install linux-image-amd64    # Debian 12 and later have 6.1"],
        ),
        Lack::LockedMemory => Finding::error(
            check,
            "no more memory may be locked by this user",
            "some kernels count rings as locked memory, and what a process that has just ended held \
             is given back a moment later",
            &MEMLOCK_REMEDIES,
        ),
        Lack::Other(error) => Finding::error(check, error.to_string(), why, &["dmesg | tail"]),
    };
    vec![finding]
}

const MEMLOCK_REMEDIES: [&str; 3] = [
    "systemctl edit ringcast    # [Service] LimitMEMLOCK=128M",
    "ulimit -l 131072    # in a shell, up to its hard limit",
    "cp tuning/limits.d/90-ringcast.conf /etc/security/limits.d/    # for logins",
];

fn locked_memory(config: &ServerConfig, plan: &Plan, facts: &Facts) -> Finding {
    let check = "locked memory";
    let needed = plan.row("locked bytes").takes;
    match facts.locked_bytes_max() {
        Some(max) if max < needed => Finding::error(
            check,
            format!(
                "{} shards lock {}, and {} are allowed",
                config.shards,
                size(needed),
                size(max)
            ),
            "each shard registers memory for files with the kernel, and since Linux 6.14 the queues of rings \
             count, too (RLIMIT_MEMLOCK)",
            &MEMLOCK_REMEDIES,
        ),
        Some(max) => Finding::ok(check, format!("{} of {}", size(needed), size(max))),
        None => Finding::ok(check, format!("{}, without a limit", size(needed))),
    }
}

fn open_files(plan: &Plan, facts: &Facts) -> Finding {
    let check = "open files";
    let needed = plan.row("open files").takes;
    match facts.files.soft {
        Some(max) if max < needed => Finding::error(
            check,
            format!("about {needed} are needed, and {max} are allowed"),
            "listeners, rings and executors of all shards are files",
            &["systemctl edit ringcast    # [Service] LimitNOFILE=1048576", "ulimit -n 65536"],
        ),
        Some(max) => Finding::ok(check, format!("about {needed} of {max}")),
        None => Finding::ok(check, format!("about {needed}, without a limit")),
    }
}

fn tables(config: &ServerConfig, facts: &Facts) -> Finding {
    let check = "sockets of a ring";
    let files_max = facts.files.soft.unwrap_or(u64::MAX);
    let shards = (0..config.shards).map(|id| config.cores[id % config.cores.len()]);
    let fitted = shards.map(|cpu| config.on_core(cpu, files_max));
    let most = fitted.max_by_key(ServerConfig::ring_count).expect("there is a shard");
    let (connections, rings) = (most.connections_max, most.ring_count());
    let table = most.ring.table_entries;
    if rings == 1 {
        return Finding::ok(check, format!("{connections} connections fit in a table of {table}"));
    }
    let what =
        format!("{connections} connections of a shard take {rings} rings of {table} sockets");
    if u64::from(table) < files_max {
        return Finding::ok(check, what); // as configured
    }
    let why = "a table holds RLIMIT_NOFILE entries at most. More rings work as well, but each is \
               submitted and reaped by itself, so there are more and smaller batches";
    let remedies =
        ["systemctl edit ringcast    # [Service] LimitNOFILE=1048576", "ulimit -n 1048576"];
    Finding::new(Severity::Note, check, what, why, &remedies)
}

fn backlog(config: &ServerConfig, facts: &Facts) -> Option<Finding> {
    let check = "backlog";
    let (wanted, max) = (u64::from(config.listener.backlog), facts.somaxconn?);
    if wanted <= max {
        return Some(Finding::ok(check, format!("{wanted} of net.core.somaxconn = {max}")));
    }
    let set = format!("sysctl -w net.core.somaxconn={wanted}");
    Some(Finding::warning(
        check,
        format!("socket.backlog = {wanted} is cut to net.core.somaxconn = {max}"),
        "when all clients come back at once, those that find the queue full wait a second or more",
        &[&set, "cp tuning/sysctl.d/90-ringcast.conf /etc/sysctl.d/ && sysctl --system"],
    ))
}

fn loopback(config: &ServerConfig, facts: &Facts) -> Option<Finding> {
    let max = facts.netdev_max_backlog?;
    let tls_listen = config.tls.as_ref().and_then(|tls| tls.listen);
    let mut addresses = config.listen.into_iter().chain(tls_listen);
    let address = addresses.find(|address| address.ip().is_loopback())?;
    if max >= LOOPBACK_BACKLOG {
        return None;
    }
    Some(Finding::new(
        Severity::Note,
        "loopback",
        format!("net.core.netdev_max_backlog = {max}, and the daemon listens on {address}"),
        "a batch of sends over loopback goes through this queue; what finds it full is dropped and sent \
         again 200 ms later. For benchmarks on this host, and for a proxy on it",
        &["sysctl -w net.core.netdev_max_backlog=65536"],
    ))
}

fn kernel_memory(config: &ServerConfig, plan: &Plan, facts: &Facts) -> Option<Finding> {
    let check = "tcp_mem";
    let (most, pressure) = (plan.row("bytes in the kernel").takes, facts.tcp_pressure_bytes?);
    if most <= pressure {
        let what = format!("{} of {} if all readers stall", size(most), size(pressure));
        return Some(Finding::ok(check, what));
    }
    let connections = plan.row("connections").takes.max(1);
    let fits = (pressure / connections / 2 / 1024 * 1024).max(4096);
    let lower = format!("ringcast serve --set socket.send_buffer_bytes={fits}");
    let stalled = pressure / (2 * u64::from(config.listener.send_buffer_bytes));
    Some(Finding::new(
        Severity::Note,
        check,
        format!("{stalled} stalled readers fill net.ipv4.tcp_mem = {}", size(pressure)),
        format!(
            "{connections} connections may come, and readers stall together when a network does; \
             beyond tcp_mem the kernel holds up every socket of the host"
        ),
        &[&lower, "lower socket.connections_max to what is expected"],
    ))
}

/// Nothing to be done about: it answers who wonders why the kernel does not encrypt.
fn kernel_tls(facts: &Facts) -> Option<Finding> {
    let has = match facts.has_kernel_tls? {
        true => "the kernel's own is loaded and not used",
        false => "the kernel's own is not loaded, and would not be used",
    };
    let why = "the daemon encrypts a message for less, see docs/benchmarks.md";
    Some(Finding::ok("TLS", format!("{has}: {why}")))
}

/// The message log, beside the disk that it is on.
pub(super) fn disk(plan: &Plan) -> Option<Finding> {
    let check = "disk";
    let row = plan.find("bytes on disk")?;
    let (takes, has) = (row.takes, row.allows?);
    if takes <= has {
        return Some(Finding::ok(check, format!("{} for the message log", size(takes))));
    }
    Some(Finding::warning(
        check,
        format!("the message log may take {}, and {} are there for it", size(takes), size(has)),
        "when the disk is full, publishes to persisted channels are refused until there is room",
        &["[log] shard_bytes_max = ...", "df -h    # another disk for server.state_dir"],
    ))
}

fn memory(plan: &Plan, facts: &Facts) -> Option<Finding> {
    let check = "memory";
    let needed = plan.memory_bytes();
    let has = facts.memory_max_bytes.into_iter().chain(facts.memory_available_bytes).min()?;
    if needed <= has {
        return Some(Finding::ok(check, format!("{} at most, of {}", size(needed), size(has))));
    }
    let (row, key) = plan.largest();
    let lower = format!("lower {key}: {} are {}", row.resource, size(row.takes));
    Some(Finding::warning(
        check,
        format!("the bounds come to {}, and there are {}", size(needed), size(has)),
        "should all of them be met at once, the kernel ends the daemon",
        &[&lower, "systemctl show -p MemoryMax ringcast"],
    ))
}

fn cpus(config: &ServerConfig, facts: &Facts) -> Vec<Finding> {
    let check = "CPUs";
    let (shards, cores) = (config.shards, config.cores.len());
    let in_use = cores.min(shards);
    let mut findings = Vec::new();
    if shards > cores {
        findings.push(Finding::new(
            Severity::Note,
            check,
            format!("{shards} shards share {cores} CPUs"),
            "they take turns; one for each CPU is what serves fastest",
            &["leave server.shards out"],
        ));
    }
    match facts.cpu_quota {
        Some(quota) if quota < in_use as f64 => findings.push(Finding::warning(
            check,
            format!("a cgroup grants {quota:.1} CPUs, and shards run on {in_use}"),
            "when the quota of a period is used up, all shards stand still until the next: tails of up \
             to 100 ms, and in the worst case the watchdog",
            &["systemctl set-property ringcast CPUQuota=", "set server.cores to fewer CPUs"],
        )),
        _ if shards <= cores => {
            let what = format!("{shards} shards on {:?}", &config.cores[..in_use]);
            findings.push(Finding::ok(check, what));
        }
        _ => {}
    }
    findings
}

fn clock(facts: &Facts) -> Option<Finding> {
    let check = "clock";
    Some(match facts.is_clock_synchronised? {
        true => Finding::ok(check, "is synchronised"),
        false => Finding::warning(
            check,
            "nothing keeps it right",
            "tokens and signed requests are judged by the time of day, and serials begin with it",
            &["timedatectl set-ntp true", "apt install chrony"],
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::shard::ShardConfig;
    use crate::sys::host::Limit;

    fn facts() -> Facts {
        let limit = |value| Limit { soft: Some(value), hard: Some(value) };
        Facts {
            kernel: "6.12.0".into(),
            io_uring: Ok(()),
            io_uring_disabled: Some(0),
            is_filtered: false,
            may_lock_all: false,
            may_bind_low: false,
            locked: limit(128 << 20),
            files: limit(1 << 20),
            somaxconn: Some(16_384),
            netdev_max_backlog: Some(65_536),
            unprivileged_port_start: Some(1024),
            tcp_pressure_bytes: Some(1 << 40),
            has_kernel_tls: Some(true),
            is_clock_synchronised: Some(true),
            cpu_quota: None,
            memory_available_bytes: Some(64 << 30),
            memory_max_bytes: None,
        }
    }

    fn server(shards: usize) -> ServerConfig {
        let (server, _) = Config::default().into_server().expect("the defaults can be honoured");
        ServerConfig { shards, cores: vec![0, 1], ..server }
    }

    /// The only finding that is not `ok`.
    fn only(config: &ServerConfig, facts: &Facts) -> Finding {
        let mut bad = run(config, facts);
        bad.retain(|finding| finding.severity != Severity::Ok);
        assert_eq!(bad.len(), 1, "{bad:?}");
        bad.remove(0)
    }

    #[test]
    fn a_good_host_has_nothing_to_be_told() {
        let findings = run(&server(2), &facts());
        assert!(findings.len() >= 9, "{findings:?}");
        assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:?}");
    }

    #[test]
    fn each_obstacle_is_found_alone_and_has_a_remedy() {
        let limit = |value| Limit { soft: Some(value), hard: Some(value) };
        let missing = || Err(Lack::Operations(vec!["multishot receive (Linux 6.0)".into()]));
        let cases: [(Facts, Severity, &str, &str); 15] = [
            (
                Facts { io_uring: Err(Lack::Permission), io_uring_disabled: Some(2), ..facts() },
                Severity::Error,
                "io_uring",
                "kernel.io_uring_disabled = 2",
            ),
            (
                Facts { io_uring: Err(Lack::Permission), io_uring_disabled: Some(1), ..facts() },
                Severity::Error,
                "io_uring",
                "members of a group",
            ),
            (
                Facts { io_uring: Err(Lack::Permission), is_filtered: true, ..facts() },
                Severity::Error,
                "io_uring",
                "a seccomp filter refuses",
            ),
            (
                Facts { io_uring: Err(Lack::IoUring), ..facts() },
                Severity::Error,
                "io_uring",
                "built without it",
            ),
            (Facts { io_uring: Err(Lack::Age), ..facts() }, Severity::Error, "io_uring", "too old"),
            (
                Facts { io_uring: missing(), ..facts() },
                Severity::Error,
                "io_uring",
                "multishot receive (Linux 6.0)",
            ),
            (
                Facts { locked: limit(1 << 20), ..facts() },
                Severity::Error,
                "locked memory",
                "2 shards lock 1.5 MiB, and 1 MiB are allowed",
            ),
            (
                Facts { kernel: "6.14.2-1".into(), locked: limit(2 << 20), ..facts() },
                Severity::Error,
                "locked memory",
                "2 shards lock 2.6 MiB, and 2 MiB are allowed",
            ),
            (
                Facts { files: limit(70_000), somaxconn: Some(128), ..facts() },
                Severity::Warning,
                "backlog",
                "socket.backlog = 4096 is cut to net.core.somaxconn = 128",
            ),
            (
                Facts { files: limit(20_000), ..facts() },
                Severity::Note,
                "sockets of a ring",
                "65536 connections of a shard take 4 rings of 20000 sockets",
            ),
            (
                Facts { netdev_max_backlog: Some(1000), ..facts() },
                Severity::Note,
                "loopback",
                "net.core.netdev_max_backlog = 1000",
            ),
            (
                Facts { tcp_pressure_bytes: Some(1 << 30), ..facts() },
                Severity::Note,
                "tcp_mem",
                "8192 stalled readers fill net.ipv4.tcp_mem = 1 GiB",
            ),
            (
                Facts { memory_max_bytes: Some(64 << 20), ..facts() },
                Severity::Warning,
                "memory",
                "and there are 64 MiB",
            ),
            (
                Facts { cpu_quota: Some(1.5), ..facts() },
                Severity::Warning,
                "CPUs",
                "a cgroup grants 1.5 CPUs, and shards run on 2",
            ),
            (
                Facts { is_clock_synchronised: Some(false), ..facts() },
                Severity::Warning,
                "clock",
                "nothing keeps it right",
            ),
        ];
        for (facts, severity, check, what) in cases {
            let finding = only(&server(2), &facts);
            assert_eq!((finding.severity, finding.check), (severity, check), "{finding:?}");
            assert!(finding.what.contains(what), "{finding:?}");
            assert!(!finding.why.is_empty() && !finding.remedies.is_empty(), "{finding:?}");
        }
        let channels = ServerConfig {
            shard: ShardConfig { channels_max: 100_000_000, ..ShardConfig::default() },
            ..server(2)
        };
        let remedy = only(&channels, &facts()).remedies.remove(0);
        assert_eq!(remedy, "lower limits.channels_max: bytes of channels are 345 GiB");
        let all = Facts { files: limit(64), ..facts() };
        let findings = run(&server(2), &all);
        let files =
            findings.iter().find(|finding| finding.check == "open files").expect("is there");
        assert_eq!(files.severity, Severity::Error);
        // Whoever may lock as much as it likes is not held to the limit.
        let root = Facts { locked: limit(0), may_lock_all: true, ..facts() };
        let plan = Plan::new(&server(2), Beside::default(), &root);
        assert_eq!(locked_memory(&server(2), &plan, &root).severity, Severity::Ok);
        assert_eq!(only(&server(4), &facts()).what, "4 shards share 2 CPUs");
    }

    #[test]
    fn a_small_host_is_not_warned_of_bounds_that_nobody_has_set() {
        let small = Facts {
            memory_available_bytes: Some(1600 << 20),
            memory_max_bytes: None,
            tcp_pressure_bytes: Some(64 << 20),
            ..facts()
        };
        let mut config = server(2);
        config.shard.channels_max = 145_100; // the default where there are 2 GiB
        let finding = memory(&Plan::new(&config, Beside::default(), &small), &small);
        assert_eq!(finding.expect("memory is known").severity, Severity::Ok);
        assert_eq!(only(&config, &small).severity, Severity::Note, "what stalled readers can do");
    }

    #[test]
    fn the_kernels_own_tls_is_told_apart_from_none() {
        let what = |has_kernel_tls| {
            let finding = kernel_tls(&Facts { has_kernel_tls, ..facts() })?;
            assert_eq!((finding.severity, finding.check), (Severity::Ok, "TLS"));
            finding.what.split(':').next().map(str::to_owned)
        };
        assert_eq!(what(Some(true)).as_deref(), Some("the kernel's own is loaded and not used"));
        let none = "the kernel's own is not loaded, and would not be used";
        assert_eq!(what(Some(false)).as_deref(), Some(none));
        assert_eq!(what(None), None);
        // Without TLS it is nobody's question.
        assert!(run(&server(2), &facts()).iter().all(|finding| finding.check != "TLS"));
    }
}
