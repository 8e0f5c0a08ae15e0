//! The tuning scripts on a copy of what they change: they show, change and put back; and what the files of
//! `tuning/` say twice, they say alike.

mod daemon;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use daemon::repository;

/// A root with a network card of one queue pair, three interrupts and four CPUs.
struct Host {
    root: PathBuf,
}

impl Host {
    fn new(name: &str) -> Host {
        let root = std::env::temp_dir().join(format!("ringcast-{name}-{}", std::process::id()));
        let host = Host { root };
        for (path, value) in [
            ("proc/irq/30/smp_affinity_list", "0-3"),
            ("proc/irq/31/smp_affinity_list", "0-3"),
            ("proc/irq/default_smp_affinity", "f"),
            ("proc/sys/kernel/numa_balancing", "1"),
            ("proc/sys/net/core/rps_sock_flow_entries", "0"),
            ("sys/class/net/eth0/device/msi_irqs/30", "msi"),
            ("sys/class/net/eth0/device/msi_irqs/31", "msi"),
            ("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000000"),
            ("sys/class/net/eth0/queues/rx-0/rps_flow_cnt", "0"),
            ("sys/class/net/eth0/queues/tx-0/xps_cpus", "0"),
            ("sys/class/net/eth0/queues/tx-1/xps_cpus", "0"),
            ("sys/devices/system/cpu/online", "0-3"),
            ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave"),
            ("sys/devices/virtual/workqueue/cpumask", "f"),
        ] {
            let path = host.root.join(path);
            fs::create_dir_all(path.parent().expect("is in a directory")).expect("writable");
            fs::write(path, format!("{value}\n")).expect("writable");
        }
        host
    }

    fn run(&self, script: &str, arguments: &[&str]) -> String {
        let output = Command::new(repository().join("tuning/bin").join(script))
            .args(arguments)
            .env("RINGCAST_TUNING_ROOT", &self.root)
            .output()
            .expect("bash is here");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
        assert!(output.status.success(), "{script} {arguments:?}: {said}");
        said
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).expect("is there").trim_end().to_owned()
    }

    /// Every file with what is in it.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let mut files = BTreeMap::new();
        let mut directories = vec![self.root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).expect("made above") {
                let path = entry.expect("as above").path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    files.insert(path.clone(), fs::read_to_string(path).expect("is text"));
                }
            }
        }
        files
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn scripts_show_first_and_put_back_what_they_have_changed() {
    let host = Host::new("tuning");
    let before = host.files();
    let scripts: [(&str, &[&str]); 3] = [
        ("irq-affinity", &["eth0", "0-1"]),
        ("rps-xps", &["eth0", "2-3"]),
        ("cpu-isolation", &["2-3"]),
    ];
    for (script, arguments) in scripts {
        let files = host.files();
        let shown = host.run(script, arguments);
        assert!(shown.contains("nothing was changed; --apply does it"), "{shown}");
        let changes = shown.lines().filter(|line| line.contains(" -> ")).count();
        let reasons = shown.lines().filter(|line| line.starts_with("    why: ")).count();
        let measures = shown.lines().filter(|line| line.starts_with("    see: ")).count();
        assert!(changes > 0 && (reasons, measures) == (changes, changes), "{shown}");
        assert_eq!(host.files(), files, "showing changes nothing");
        host.run(script, &[arguments, &["--apply"]].concat());
    }
    // Of the two CPUs one has a governor, as no CPU of most guests has.
    let shown = host.run("cpu-isolation", &["2-3"]);
    assert!(shown.contains("CPU 3 has no governor: ") && !shown.contains("CPU 2 has"), "{shown}");
    for (path, value) in [
        ("proc/irq/30/smp_affinity_list", "0"),
        ("proc/irq/31/smp_affinity_list", "1"),
        ("sys/class/net/eth0/queues/rx-0/rps_cpus", "c"),
        ("sys/class/net/eth0/queues/rx-0/rps_flow_cnt", "32768"),
        ("sys/class/net/eth0/queues/tx-1/xps_cpus", "8"),
        ("proc/irq/default_smp_affinity", "3"),
        ("sys/devices/virtual/workqueue/cpumask", "3"),
        ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "performance"),
    ] {
        assert_eq!(host.read(path), value, "{path}");
    }
    // Twice is as good as once: what was there before the first time is what comes back.
    let again = host.run("irq-affinity", &["eth0", "2", "--apply"]);
    assert!(again.contains("/proc/irq/30/smp_affinity_list: 0 -> 2"), "{again}");
    for (script, _) in scripts {
        host.run(script, &["--undo"]);
    }
    assert_eq!(host.files(), before);
}

#[test]
fn both_directions_of_a_queue_meet_on_one_cpu() {
    let host = Host::new("queues");
    let names = [
        (29, "virtio0-config"),
        (30, "virtio0-input.0"),
        (31, "virtio0-output.0"),
        (32, "eth0-TxRx-1"),
        (33, "mlx5_comp2@pci:0000:00:05.0"),
        (34, "eth0"),
    ];
    let mut interrupts = "           CPU0       CPU1\n".to_owned();
    for (number, name) in names {
        for path in [
            format!("proc/irq/{number}/smp_affinity_list"),
            format!("sys/class/net/eth0/device/msi_irqs/{number}"),
        ] {
            let path = host.root.join(path);
            fs::create_dir_all(path.parent().expect("is in a directory")).expect("writable");
            fs::write(path, "9\n").expect("writable");
        }
        interrupts += &format!(" {number}:  0  7   PCI-MSI 4915{number}-edge      {name}\n");
    }
    fs::write(host.root.join("proc/interrupts"), interrupts).expect("writable");
    host.run("irq-affinity", &["eth0", "4-5", "--apply"]);
    let pinned =
        names.map(|(number, _)| host.read(&format!("proc/irq/{number}/smp_affinity_list")));
    assert_eq!(pinned, ["9", "4", "4", "5", "4", "9"]);
}

#[test]
fn every_cpu_has_a_queue_to_send_through() {
    let host = Host::new("senders");
    host.run("rps-xps", &["eth0", "0-2", "--apply"]);
    let masks = ["tx-0", "tx-1"];
    let masks =
        masks.map(|queue| host.read(&format!("sys/class/net/eth0/queues/{queue}/xps_cpus")));
    assert_eq!(masks, ["5", "2"], "two share the first");
}

#[test]
fn masks_are_written_as_the_kernel_has_them() {
    let lib = repository().join("tuning/bin/lib.sh");
    for (list, mask) in [
        ("0", "1"),
        ("0-3", "f"),
        ("2,4-5", "34"),
        ("31-32", "1,80000000"),
        ("64", "1,00000000,00000000"),
    ] {
        let script = format!(". {} && cpus_of {list} | mask", lib.display());
        let output = Command::new("bash").args(["-c", &script]).output().expect("bash is here");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), mask, "{list}");
    }
}

#[test]
fn scripts_refuse_what_they_cannot_do() {
    let host = Host::new("refuse");
    for (script, arguments, why) in [
        ("irq-affinity", &["eth9", "0"][..], "there is no network device eth9"),
        ("irq-affinity", &["eth0", "3-1"], "is not a list"),
        ("cpu-isolation", &["0-3"], "one has to be left"),
        ("rps-xps", &["--undo"], "nothing to undo"),
        ("rps-xps", &["--force"], "unknown option"),
        ("cpu-isolation", &[], "cpu-isolation CPUS"),
    ] {
        let output = Command::new(repository().join("tuning/bin").join(script))
            .args(arguments)
            .env("RINGCAST_TUNING_ROOT", &host.root)
            .output()
            .expect("bash is here");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{script} {arguments:?}: {said}");
    }
}

#[test]
fn scripts_pass_shellcheck() {
    let scripts = ["irq-affinity", "rps-xps", "cpu-isolation"];
    let scripts = scripts.map(|script| repository().join("tuning/bin").join(script));
    let Ok(output) =
        Command::new("shellcheck").arg("-x").args(scripts).current_dir(repository()).output()
    else {
        eprintln!("shellcheck is not here: not checked");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// `key = value` lines of a file or a section.
fn settings(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        // `-`: of no matter where the kernel does not have it.
        .map(|(key, value)| {
            (key.trim().trim_start_matches('-').to_owned(), value.trim().to_owned())
        })
        .collect()
}

#[test]
fn the_profile_and_the_sysctls_agree_and_name_what_the_kernel_has() {
    let read =
        |path: &str| fs::read_to_string(repository().join("tuning").join(path)).expect("is there");
    let sysctls = settings(&read("sysctl.d/90-ringcast.conf"));
    let profile = read("tuned/ringcast/tuned.conf");
    let section = profile.split("[sysctl]\n").nth(1).and_then(|rest| rest.split("\n[").next());
    assert_eq!(settings(section.expect("has the section")), sysctls);
    for key in sysctls.keys() {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        // Containers do not show all of them, but no name is made up.
        let is_known = path.exists() || !path.parent().is_some_and(Path::exists);
        assert!(is_known || key == "kernel.io_uring_disabled", "{key}");
    }
    let readme = read("README.md");
    for key in sysctls.keys() {
        let name = key.rsplit('.').next().expect("split yields at least one part");
        assert!(readme.contains(name), "{key} is not in the README");
    }
}
