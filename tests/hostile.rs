//! The hostile and heavy clients of `tests/hostile`, in small: the scenarios whose criteria do not depend on how fast
//! the machine is.

mod daemon;

use std::process::Command;

use daemon::repository;

#[test]
#[ignore = "needs python3"]
fn hostile_clients_cost_others_nothing() {
    let script = repository().join("tests/hostile/run.py");
    let output = Command::new("python3")
        .arg(script)
        .args(["--small", env!("CARGO_BIN_EXE_ringcast")])
        .output()
        .expect("python3 can be started");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    // Those that there are have run.
    assert!(told.lines().filter(|line| line.ends_with("| met |")).count() >= 9, "{told}");
}
