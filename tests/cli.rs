//! The command line: what a newcomer sees, and what is refused.

mod daemon;

use std::process::{Command, Output};

use daemon::Daemon;

fn ringcast(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringcast"))
        .args(arguments)
        .output()
        .expect("the program can be started")
}

fn refusal(arguments: &[&str]) -> String {
    let output = ringcast(arguments);
    assert!(!output.status.success(), "{arguments:?} must be refused");
    String::from_utf8(output.stderr).expect("errors are UTF-8")
}

#[test]
fn serve_without_a_key_makes_one_and_shows_how_to_use_it() {
    let daemon = Daemon::start_with(&["--shards", "2"]);
    let ready = format!("listening on {} shards=2\n", daemon.address);
    assert!(daemon.greeting.contains(&ready), "{}", daemon.greeting);
    let key = daemon.greeting.split('\'').nth(1).expect("export RINGCAST_KEY='..'");
    let response = daemon.exchange(&format!(
        "GET /channels/hello/messages?key={key} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    ));
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    for command in ["curl -u \"$RINGCAST_KEY\"", "node -e"] {
        assert!(daemon.greeting.contains(command), "{}", daemon.greeting);
    }
}

#[test]
fn a_daemon_that_nobody_could_reach_is_refused() {
    let deaf = "nobody could connect: `server.listen` and `tls.listen` are both \"off\"";
    for command in ["check", "serve"] {
        let said = refusal(&[command, "--set", "server.listen=off"]);
        assert!(said.contains(deaf), "{said}");
    }
}

#[test]
fn check_counts_what_the_message_log_may_take_of_the_disk() {
    let path = std::env::temp_dir().join(format!("ringcast-disk-{}.toml", std::process::id()));
    let text = "[server]\nshards = 2\nstate_dir = \"ringcast-nowhere\"\n[[keys]]\nkey = \"shop.all:hush\"\n\
                [log]\nshard_bytes_max = \"512MiB\"\n[[apps]]\nid = \"shop\"\n[[apps.namespaces]]\nid = \"a\"\n";
    let file = path.to_str().expect("a path in UTF-8");
    for (persist, takes) in [(true, Some("1 GiB")), (false, None)] {
        std::fs::write(&path, format!("{text}persist = {persist}\n")).expect("writable");
        let said = String::from_utf8(ringcast(&["check", "--config", file]).stdout).expect("UTF-8");
        let row = said.lines().find(|line| line.starts_with("bytes on disk"));
        assert_eq!(row.is_some(), takes.is_some(), "{said}");
        assert!(takes.is_none_or(|takes| row.is_some_and(|row| row.contains(takes))), "{said}");
    }
    std::fs::remove_file(path).expect("was written");
}

#[test]
fn serve_with_a_key_keeps_it_to_itself() {
    let daemon = Daemon::start_with(&["--key", "app.key:hush"]);
    assert!(!daemon.greeting.contains("hush"), "{}", daemon.greeting);
}

#[test]
fn config_shows_each_value_and_where_it_is_from() {
    let path = std::env::temp_dir().join(format!("ringcast-show-{}.toml", std::process::id()));
    let said = |output: Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    std::fs::write(&path, said(ringcast(&["config", "default"]))).expect("writable");
    let file = path.to_str().expect("a path in UTF-8");
    said(ringcast(&["check", "--config", file]));
    std::fs::write(
        &path,
        "[server]\nshards = 3\n\n[limits]\nhead_timeout = \"9s\"\n[[keys]]\nkey = \"a.b:hush\"\n",
    )
    .expect("as above");
    let flags = ["config", "effective", "--config", file, "--listen", "127.0.0.1:1"];
    let shown = said(ringcast(&flags));
    for line in [
        "listen = \"127.0.0.1:1\" # --listen".to_owned(),
        format!("shards = 3 # {file}:2"),
        format!("head_timeout = \"9s\" # {file}:5"),
        "backlog = 4096".to_owned(),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    assert!(shown.contains("a.b") && !shown.contains("hush"), "{shown}");
    std::fs::remove_file(path).expect("made above");
}

#[test]
fn layers_are_told_apart_and_keys_are_explained() {
    let directory = std::env::temp_dir().join(format!("ringcast-layers-{}", std::process::id()));
    let beside = directory.join("ringcast.d");
    std::fs::create_dir_all(&beside).expect("the temporary directory can be written");
    let file = directory.join("ringcast.toml");
    std::fs::write(&file, "[socket]\nbacklog = 10\nring_entries = 64\n").expect("as above");
    std::fs::write(
        beside.join("10.toml"),
        "[socket]\nbacklog = 20\n[[keys]]\nkey = \"a.b:hush\"\n",
    )
    .expect("as above");
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ringcast"))
            .args(arguments)
            .args(["--config", file.to_str().expect("a path in UTF-8")])
            .envs(variables.iter().copied())
            .output()
            .expect("the program can be started");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).expect("UTF-8"))
    };
    let arguments = ["config", "effective", "--set", "limits.mesh_entries=32"];
    let variables =
        [("RINGCAST_LIMITS_HEAD_TIMEOUT", "4s"), ("RINGCAST_KEYS", "c.d:hush c.e:hush")];
    let (_, shown) = run(&arguments, &variables);
    for line in [
        format!("backlog = 20 # {}:2", beside.join("10.toml").display()),
        format!("ring_entries = 64 # {}:3", file.display()),
        "head_timeout = \"4s\" # RINGCAST_LIMITS_HEAD_TIMEOUT".to_owned(),
        "mesh_entries = 32 # --set limits.mesh_entries".to_owned(),
        "# [[keys]] c.e, RINGCAST_KEYS, its secret is not shown".to_owned(),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    assert!(!shown.contains("hush") && !shown.contains("a.b"), "{shown}");
    let (is_good, said) = run(&["check"], &[("RINGCAST_LIMITS_HEAD_TIMEOUT", "9d")]);
    assert!(
        !is_good && said.contains("RINGCAST_LIMITS_HEAD_TIMEOUT: `limits.head_timeout`"),
        "{said}"
    );
    let doc = ringcast(&["config", "doc", "limits"]);
    let doc = String::from_utf8(doc.stdout).expect("UTF-8");
    assert!(
        doc.contains("limits.head_timeout\n  type      duration: 1s to 5m\n  default   \"10s\""),
        "{doc}"
    );
    assert!(!doc.contains("server.listen"), "{doc}");
    assert!(refusal(&["config", "doc", "no.such"]).contains("no.such"));
    std::fs::remove_dir_all(directory).expect("made above");
}

#[test]
fn flags_that_cannot_be_honoured_are_refused() {
    assert!(refusal(&["serve", "--shards", "0"]).contains("1..=256"));
    assert!(refusal(&["serve", "--cores", "3-1"]).contains("ends before it starts"));
    assert!(refusal(&["serve", "--cores", "65000"]).contains("CPU 65000"));
    assert!(refusal(&["serve", "--listen", "here"]).contains("--listen"));
    assert!(refusal(&["serve", "--config", "/no/such/file"]).contains("/no/such/file"));
}

#[test]
fn a_port_in_use_by_somebody_else_is_refused() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let address = taken.local_addr().expect("it is bound").to_string();
    let error = refusal(&["serve", "--listen", &address, "--key", "app.key:hush"]);
    assert!(error.contains(&address), "{error}");
}

#[test]
fn check_says_what_is_wrong_and_where() {
    let directory = std::env::temp_dir().join(format!("ringcast-cli-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("the temporary directory can be written");
    let path = directory.join("ringcast.toml");
    let check = |text: &str| {
        std::fs::write(&path, text).expect("the temporary directory can be written");
        ringcast(&["check", "--config", path.to_str().expect("a path in UTF-8")])
    };
    let good = check("[server]\nshards = 3\n[[keys]]\nkey_file = \"secret.key\"\n");
    assert!(!good.status.success(), "the key file is not there yet");
    std::fs::write(directory.join("secret.key"), "app.key:hush\n").expect("as above");
    let good = check("[server]\nshards = 3\n[[keys]]\nkey_file = \"secret.key\"\n");
    let said = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(good.status.success() && said.contains("shards 3") && !said.contains("hush"), "{said}");
    let bad = check("[server]\nshard = 3\n");
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(said.contains("ringcast.toml:2:1: unknown key `server.shard`"), "{said}");
    assert!(!bad.status.success());
    std::fs::remove_dir_all(&directory).expect("made above");
}

#[test]
fn manual_pages_and_completions_are_made_of_the_help_and_have_no_faults() {
    let directory = std::env::temp_dir().join(format!("ringcast-man-{}", std::process::id()));
    let path = directory.to_str().expect("a path in UTF-8");
    let made = ringcast(&["man", path]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let page = |name: &str| {
        std::fs::read_to_string(directory.join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    assert!(page("ringcast.1").contains("ringcast\\-serve(1)"), "{}", page("ringcast.1"));
    assert!(page("ringcast-serve.1").contains("listen"));
    let reference = page("ringcast.toml.5");
    assert!(
        reference.contains("drain_window") && reference.contains("RINGCAST_SERVER_DRAIN_WINDOW")
    );
    for entry in std::fs::read_dir(&directory).expect("made above") {
        let path = entry.expect("as above").path();
        // Warnings are about style, such as dates, which a page that is built again would not keep.
        let lint = Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(&path).output();
        let Ok(lint) = lint else {
            eprintln!("mandoc is not here: not checked");
            break;
        };
        let said = String::from_utf8_lossy(&lint.stdout).into_owned();
        assert!(lint.status.success() && said.is_empty(), "{said}");
    }
    std::fs::remove_dir_all(&directory).expect("made above");
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef ringcast"), ("fish", "complete -c ringcast")]
    {
        let output = ringcast(&["completions", shell]);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.contains(word) && text.contains("doctor"), "{shell}");
    }
}
