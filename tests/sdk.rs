//! Real clients against the real daemon: Ably's SDKs in node and Python, a browser, Autobahn.
//! They need packages from npm and PyPI, which `tests/run` installs.

mod daemon;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use daemon::{Daemon, repository, run};

fn sdk() -> PathBuf {
    repository().join("tests/sdk")
}

fn node_tests(daemon: &Daemon, file: &str) -> Command {
    let mut node = Command::new("node");
    node.args(["--test", "--test-timeout=300000", file])
        .current_dir(sdk())
        .env("RINGCAST_ADDRESS", daemon.address.to_string());
    node
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_realtime() {
    run(&mut node_tests(&Daemon::start(), "realtime.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_rest() {
    run(&mut node_tests(&Daemon::start(), "rest.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_auth() {
    run(&mut node_tests(&Daemon::sandbox(), "auth.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_mutable_messages() {
    run(&mut node_tests(&Daemon::start(), "mutable.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_deltas_filters_and_params() {
    run(&mut node_tests(&Daemon::start(), "views.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn clients_with_and_without_compression() {
    let config = sdk().join("ringcast.toml");
    let config = config.to_str().expect("the repository has a path in UTF-8");
    let mut program = Command::new(env!("CARGO_BIN_EXE_ringcast"));
    program.args(["serve", "--listen", "127.0.0.1:0", "--shards", "3", "--config", config]);
    let daemon = Daemon::spawn(program.env("RINGCAST_WEBSOCKET_DEFLATE", "true"));
    run(&mut node_tests(&daemon, "deflate.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_resume() {
    run(&mut node_tests(&Daemon::start(), "resume.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_over_kill_9() {
    run(&mut node_tests_with_daemons("log.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_presence() {
    run(&mut node_tests(&Daemon::start(), "presence.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_many_publishers_and_channels() {
    run(&mut node_tests(&Daemon::start(), "many.test.mjs"));
}

#[test]
#[ignore = "needs npm packages and Chromium: tests/run"]
fn ably_js_in_a_browser() {
    run(&mut node_tests(&Daemon::start(), "browser.test.mjs"));
}

/// Tests that start and kill daemons of their own.
fn node_tests_with_daemons(file: &str) -> Command {
    let mut node = Command::new("node");
    node.args(["--test", "--test-timeout=300000", file])
        .current_dir(sdk())
        .env("RINGCAST_BINARY", env!("CARGO_BIN_EXE_ringcast"));
    node
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn limits_on_who_may_come_in() {
    run(&mut node_tests_with_daemons("limits.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn rules_and_what_they_send() {
    run(&mut node_tests_with_daemons("hooks.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn rules_that_are_asked_before_a_publish() {
    run(&mut node_tests_with_daemons("gate.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn rules_that_invoke_functions() {
    run(&mut node_tests_with_daemons("aws.test.mjs"));
}

#[test]
#[ignore = "needs npm packages and nats-server: tests/run"]
fn rules_that_publish_to_nats() {
    run(&mut node_tests_with_daemons("nats.test.mjs"));
}

#[test]
#[ignore = "needs npm packages and openssl: tests/run"]
fn rules_and_whom_they_trust() {
    run(&mut node_tests_with_daemons("https.test.mjs"));
}

#[test]
#[ignore = "needs npm packages and Chromium: tests/run"]
fn the_inspector_of_rules_in_a_browser() {
    run(&mut node_tests_with_daemons("inspector.test.mjs"));
}

#[test]
#[ignore = "needs npm packages and Chromium: tests/run"]
fn the_chat_example_in_a_browser() {
    run(&mut node_tests_with_daemons("chat.test.mjs"));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn the_examples_work_as_printed() {
    let daemon = Daemon::start_with(&["--shards", "2"]);
    run(node_tests(&daemon, "examples.test.mjs").env("RINGCAST_GREETING", &daemon.greeting));
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
    let config = repository().join("tests/autobahn/ringcast.toml");
    let config = config.to_str().expect("the repository has a path in UTF-8");
    let daemon =
        Daemon::start_with(&["--config", config, "--shards", "1", "--key", "app.all:hush"]);
    run(Command::new("python3")
        .arg(repository().join("tests/autobahn/run.py"))
        .arg(format!("ws://{}/echo", daemon.address)));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn ably_js_goes_elsewhere_when_its_daemon_drains() {
    let mut daemon = Daemon::start();
    let config = sdk().join("ringcast.toml");
    let other = SocketAddr::from(([127, 0, 0, 2], daemon.address.port()));
    let mut program = Command::new(env!("CARGO_BIN_EXE_ringcast"));
    program.args(["serve", "--listen", &other.to_string(), "--config"]).arg(config);
    let other = Daemon::spawn(&mut program);
    let mut node = node_tests(&daemon, "drain.test.mjs");
    node.env("RINGCAST_PID", daemon.pid().to_string());
    run(node.env("RINGCAST_OTHER", other.address.to_string()));
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
#[ignore = "needs npm packages: tests/run"]
fn admin_page_in_a_browser() {
    let name = format!("ringcast-page-{}.toml", std::process::id());
    let config = std::env::temp_dir().join(name);
    let text = "[admin]\nlisten = \"127.0.0.1:0\"\n[test]\nstall = true\n";
    std::fs::write(&config, text).expect("the temporary directory can be written");
    let file = config.to_str().expect("a path in UTF-8");
    let daemon = Daemon::start_with(&["--shards", "2", "--key", "app.all:hush", "--config", file]);
    let line = daemon.greeting.lines().find_map(|line| line.strip_prefix("metrics on "));
    let admin = line.and_then(|url| url.strip_suffix("metrics")).expect("the admin's address");
    let mut node = node_tests(&daemon, "admin.test.mjs");
    run(node.env("RINGCAST_ADMIN", admin).env("RINGCAST_PID", daemon.pid().to_string()));
    std::fs::remove_file(config).expect("made above");
}
