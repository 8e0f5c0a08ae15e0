//! Real clients against the real daemon: Ably's SDKs in node and Python, a browser, Autobahn.
//! They need packages from npm and PyPI, which `tests/run` installs.

mod daemon;

use std::path::PathBuf;
use std::process::Command;

use daemon::{Daemon, repository, run};

fn sdk() -> PathBuf {
    repository().join("tests/sdk")
}

fn run_node_tests(daemon: &Daemon, file: &str) {
    run(Command::new("node")
        .args(["--test", "--test-timeout=300000", file])
        .current_dir(sdk())
        .env("RINGCAST_ADDRESS", daemon.address.to_string()));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_realtime() {
    run_node_tests(&Daemon::start(), "realtime.test.mjs");
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_rest() {
    run_node_tests(&Daemon::start(), "rest.test.mjs");
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_many_publishers_and_channels() {
    run_node_tests(&Daemon::start(), "many.test.mjs");
}

#[test]
#[ignore = "needs npm packages and Chromium: tests/run"]
fn ably_js_in_a_browser() {
    run_node_tests(&Daemon::start(), "browser.test.mjs");
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn the_examples_work_as_printed() {
    run_node_tests(&Daemon::start(), "examples.test.mjs");
}

#[test]
#[ignore = "needs PyPI packages: tests/run"]
fn ably_python() {
    let daemon = Daemon::start();
    run(Command::new(sdk().join("python/.venv/bin/python"))
        .args(["-m", "unittest", "-v", "test_ably"])
        .current_dir(sdk().join("python"))
        .env("RINGCAST_ADDRESS", daemon.address.to_string()));
}

#[test]
#[ignore = "needs PyPI packages: tests/run"]
fn autobahn() {
    let daemon = Daemon::start();
    run(Command::new("python3")
        .arg(repository().join("tests/autobahn/run.py"))
        .arg(format!("ws://{}/echo", daemon.address)));
}
