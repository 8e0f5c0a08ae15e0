//! What monitors see: the metrics of a daemon that has something to do, and the rules and the dashboard in
//! `tuning/monitoring`, held against them.

mod daemon;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use daemon::{Daemon, PATIENCE, repository};
use serde_json::Value;

/// The metrics of a daemon with two shards that has published something, the same for all tests.
fn metrics() -> &'static str {
    static METRICS: OnceLock<String> = OnceLock::new();
    METRICS.get_or_init(scrape)
}

fn scrape() -> String {
    let name = format!("ringcast-monitoring-{}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, "[admin]\nlisten = \"127.0.0.1:0\"\n").expect("writable");
    let config = path.to_str().expect("a path in UTF-8");
    let daemon =
        Daemon::start_with(&["--shards", "2", "--key", "app.key:hush", "--config", config]);
    std::fs::remove_file(&path).expect("made above");
    for number in 0..20 {
        let body = r#"{"data":"hello"}"#;
        let answer = daemon.exchange(&format!(
            "POST /channels/room{number}/messages?key=app.key:hush HTTP/1.1\r\nHost: h\r\n\
             Connection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    }
    let line = daemon.greeting.lines().find_map(|line| line.strip_prefix("metrics on http://"));
    let admin = line.and_then(|rest| rest.strip_suffix("/metrics")).expect("an admin address");
    let admin: SocketAddr = admin.parse().expect("an address");
    // Reports come once a second, so that what has just happened may not be in it yet.
    loop {
        let mut stream = TcpStream::connect(admin).expect("the admin server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("the admin server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it closes behind its answer");
        let (_, text) = answer.split_once("\r\n\r\n").expect("a head");
        let published = values(text, "ringcast_publications_total");
        if published == 20.0 {
            return text.to_owned();
        }
        assert!(published < 20.0, "{text}");
    }
}

/// The sum of all samples called `name`.
fn values(text: &str, name: &str) -> f64 {
    let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let values = samples.filter_map(|rest| rest.split_once("} ")?.1.parse::<f64>().ok());
    values.sum()
}

/// Prometheus' own tool, where `.ci/run` has put it.
fn promtool(arguments: &[&str], input: &str) -> Option<String> {
    let own = repository().join("target/tools/promtool");
    let program = if own.exists() { own } else { PathBuf::from("promtool") };
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(repository().join("tuning/monitoring"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).expect("UTF-8");
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    Some(said)
}

/// The names in an expression that are metrics of ours.
fn names(expression: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !is_word(c));
    words.filter(|word| word.starts_with("ringcast_") || word.starts_with("process_")).collect()
}

/// All texts under a key called `key`, wherever in `value` it is.
fn texts<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get(key).and_then(Value::as_str));
            object.values().for_each(|value| texts(value, key, found));
        }
        Value::Array(list) => list.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

#[test]
fn prometheus_takes_the_metrics_and_they_count_what_has_happened() {
    let text = metrics();
    for (name, count) in [
        ("ringcast_publication_size_bytes_count", 20.0),
        ("ringcast_publication_size_bytes_sum", 100.0),
        ("ringcast_publish_seconds_count", 20.0),
    ] {
        assert_eq!(values(text, name), count, "{name}");
    }
    assert!(values(text, "ringcast_turn_seconds_count") > 20.0);
    assert!(values(text, "ringcast_turn_seconds_sum") > 0.0);
    match promtool(&["check", "metrics"], text) {
        Some(said) => assert_eq!(said, "", "no advice either"),
        None => eprintln!("promtool is not here: not checked"),
    }
}

#[test]
fn rules_and_dashboard_ask_for_what_there_is() {
    let text = metrics();
    // Some have samples only where there is a certificate, or a rule.
    let name_of = |line: &'static str| match line.strip_prefix("# TYPE ") {
        Some(named) => named.split(' ').next(),
        None => line.split(['{', ' ']).next(),
    };
    let known: BTreeSet<&str> = text.lines().filter_map(name_of).collect();
    let directory = repository().join("tuning/monitoring");
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect("is there");
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).expect("JSON");
    let mut expressions = Vec::new();
    texts(&dashboard, "expr", &mut expressions);
    texts(&dashboard, "query", &mut expressions);
    assert!(expressions.len() > 20, "{expressions:?}");
    let alerts = read("alerts.yml");
    let of_alerts: Vec<&str> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(of_alerts.len() >= 10, "{of_alerts:?}");
    let documented =
        std::fs::read_to_string(repository().join("docs/metrics.md")).expect("is there");
    let questions: Vec<&str> = documented.lines().filter(|line| line.contains("? | `")).collect();
    assert!(questions.len() >= 6, "{questions:?}");
    for expression in expressions.into_iter().chain(of_alerts).chain(questions) {
        for name in names(expression) {
            assert!(known.contains(name), "{name} of {expression} is no metric");
        }
    }
    if promtool(&["check", "rules", "alerts.yml"], "").is_none() {
        eprintln!("promtool is not here: not checked");
        return;
    }
    promtool(&["test", "rules", "alerts_test.yml"], "").expect("was here just now");
}
