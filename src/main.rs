//! The command line: flags to a configuration, a configuration to the daemon.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use ringcast::admin::SocketPlace;
use ringcast::admin::command::{self as control, Client, ControlCommand, ControlFlags};
use ringcast::bench::{self, BenchArgs};
use ringcast::config::{ApiKey, Config, SandboxFlags, ServeFlags};
use ringcast::doctor;
use ringcast::hooks::{Selection, command, spool_directory};
use ringcast::server::{self, Reload, Reloaded};
use ringcast::tls::{Acceptor, CertificateFacts};
use serde_json::Value;

/// Gives memory back to the kernel soon after it was freed, whichever thread frees it and wherever it lies. The C
/// library's allocator gives back the end of a heap alone, so one long-lived value behind a hundred thousand
/// that are gone keeps all of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One published message to very many WebSocket subscribers, in order, once.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon
    Serve(ServeFlags),
    /// Run the daemon for tests: whoever reaches it makes apps with POST /apps
    Sandbox(SandboxFlags),
    #[command(flatten)]
    Control(ControlCommand),
    Bench(BenchArgs),
    /// Print configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// See what rules deliver, what waits and what was given up; try a rule; send events again
    Hooks {
        #[command(subcommand)]
        command: HooksCommand,
        /// Configuration file (TOML), for `server.state_dir` and `admin.socket`
        #[arg(long, value_name = "FILE", global = true)]
        config: Option<PathBuf>,
        /// Control socket of a running daemon [default: as configured, or /run/ringcast/control.sock]
        #[arg(long, value_name = "PATH", global = true)]
        socket: Option<PathBuf>,
        /// For programs: one JSON object a line
        #[arg(long, global = true)]
        json: bool,
    },
    /// Read the configuration that `serve` would run with, given the same flags, and say what is wrong with it
    Check(ServeFlags),
    /// Look for what keeps `serve` from starting here, given the same flags, and say what helps
    Doctor {
        #[command(flatten)]
        flags: ServeFlags,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Write the manual pages into a directory, for packages
    #[command(hide = true)]
    Man {
        /// Where `ringcast.1` and the others go
        directory: PathBuf,
    },
    /// Print the completions for a shell, for packages
    #[command(hide = true)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Every key with its default
    Default,
    /// What `serve` would run with, given the same flags, and where each value is from
    Effective(ServeFlags),
    /// What each key means: its type, range, default and variable
    Doc {
        /// Only keys whose names begin like this, such as `limits` or `server.listen`
        #[arg(default_value = "")]
        key: String,
    },
}

#[derive(Subcommand)]
enum HooksCommand {
    /// Rules of a running daemon, and how they fare
    Rules,
    /// Events that wait, of a daemon or of a spool on disk
    List,
    /// Events that were given up, and why
    Dead,
    /// One event that waits or was given up
    Show {
        /// As `list` and `dead` name it
        id: u64,
    },
    /// Have events that were given up wait again, all of them unless told otherwise
    Replay {
        /// Only this one
        #[arg(long, value_name = "ID", conflicts_with = "rule")]
        id: Option<u64>,
        /// Only those of this rule
        #[arg(long, value_name = "RULE")]
        rule: Option<String>,
    },
    /// Follow what a running daemon sends, and what comes back
    Tail {
        /// Only this rule
        #[arg(long, value_name = "RULE")]
        rule: Option<String>,
    },
    /// Send an event that nobody has published through a rule, now
    Test {
        /// Its id
        rule: String,
        /// The channel that it is about
        #[arg(long, default_value = "ringcast-test")]
        channel: String,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Control(command) => run_control(&command),
        command => run(command).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringcast: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_control(command: &ControlCommand) -> anyhow::Result<ExitCode> {
    let socket = control_socket(command.flags())?;
    control::run(command, &socket).map(ExitCode::from)
}

/// Where the daemon that is meant has its control socket.
fn control_socket(flags: &ControlFlags) -> anyhow::Result<PathBuf> {
    if let Some(path) = &flags.socket {
        return Ok(path.clone());
    }
    let place = match &flags.config {
        Some(path) => Config::load(path)?.admin.socket,
        None => SocketPlace::Auto,
    };
    place
        .path(Some(control::RUNTIME_DIRECTORY))
        .context("`admin.socket` is off: there is no way in")
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(flags) => {
            let config = flags.clone().into_config()?;
            let reload = flags.config.is_some().then(|| reload(flags, config.clone()));
            serve(config, reload)
        }
        Command::Sandbox(flags) => serve(flags.into_config(), None),
        Command::Config(ConfigCommand::Default) => {
            say(&Config::default_text());
            Ok(())
        }
        Command::Config(ConfigCommand::Effective(flags)) => {
            say(&flags.effective()?);
            Ok(())
        }
        Command::Config(ConfigCommand::Doc { key }) => {
            let text = Config::reference_text(&key);
            say(&text.with_context(|| format!("there is no key `{key}`"))?);
            Ok(())
        }
        Command::Control(_) => unreachable!("has exit codes of its own"),
        Command::Bench(args) => bench::run(&args),
        Command::Hooks { command, config, socket, json } => {
            Inspector::new(config.as_deref(), socket, json)?.run(&command)
        }
        Command::Check(flags) => {
            let name = flags.config.as_ref().map(|path| path.display().to_string());
            let config = flags.into_config()?;
            let (cores, shards) = config.placement()?;
            config.check_listeners()?;
            config.directory()?;
            config.hooks()?;
            config.admin()?;
            let acceptor = config.tls.to_acceptor()?;
            say(&format!(
                "{}: ok\nlisten {}, cores {cores:?}, shards {shards}, keys {}\n",
                name.as_deref().unwrap_or("defaults"),
                listeners(&config),
                config.keys.len(),
            ));
            for facts in acceptor.iter().flat_map(Acceptor::facts) {
                say(&certificate(facts));
            }
            if let Some(plan) = doctor::examine(Ok(config)).plan {
                say(&format!("\n{}", plan.to_text()));
            }
            Ok(())
        }
        Command::Man { directory } => manual(&directory),
        Command::Completions { shell } => {
            say(&completions(shell));
            Ok(())
        }
        Command::Doctor { flags, json } => {
            let report = doctor::examine(flags.into_config());
            say(&if json { report.to_json() + "\n" } else { report.to_text() });
            if report.has_errors() {
                std::process::exit(1);
            }
            Ok(())
        }
    }
}

/// Where `check` says that clients are served.
fn listeners(config: &Config) -> String {
    let plain = config.listen.map(|address| address.to_string());
    let tls = config.tls.listen.map(|address| format!("{address} (TLS)"));
    let all: Vec<String> = plain.into_iter().chain(tls).collect();
    if all.is_empty() { "on sockets that are handed over".into() } else { all.join(" and ") }
}

/// Writes `ringcast.1`, a page for each command, and `ringcast.toml.5`.
fn manual(directory: &Path) -> anyhow::Result<()> {
    let write = || {
        std::fs::create_dir_all(directory)?;
        clap_mangen::generate_to(Cli::command(), directory)?;
        std::fs::write(directory.join("ringcast.toml.5"), Config::manual_page())
    };
    write().with_context(|| format!("cannot write to {}", directory.display()))
}

/// What `shell` reads to complete commands and flags.
fn completions(shell: clap_complete::Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ringcast", &mut text);
    String::from_utf8(text).expect("made of our own words")
}

/// What `check` says of a certificate.
#[allow(clippy::disallowed_methods, reason = "a command of its own, on no core")]
fn certificate(facts: &CertificateFacts) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let names = match &facts.names[..] {
        [] => "no name: clients that check will refuse it".into(),
        names => names.join(", "),
    };
    let mut text = format!("TLS certificate for {names}, until {}\n", facts.not_after);
    if let Some(warning) = facts.warning(now.as_secs()) {
        text += &format!("warning: {warning}\n");
    }
    text
}

/// Where a daemon's control socket is where nothing else is said.
const CONTROL_SOCKET: &str = "/run/ringcast/control.sock";

/// What `ringcast hooks` looks at: a running daemon, or what one has left on disk.
struct Inspector {
    socket: PathBuf,
    client: Client,
    /// Of the spool.
    directory: Option<PathBuf>,
    json: bool,
}

impl Inspector {
    fn new(
        config: Option<&Path>,
        socket: Option<PathBuf>,
        json: bool,
    ) -> anyhow::Result<Inspector> {
        let config = config.map(Config::load).transpose()?;
        let runtime_directory = std::env::var("RUNTIME_DIRECTORY").ok();
        let configured = config.as_ref();
        let configured =
            configured.and_then(|config| config.admin.socket.path(runtime_directory.as_deref()));
        let directory = config.and_then(|config| config.state_dir);
        let directory = directory.as_deref().map(spool_directory);
        let socket = socket.or(configured).unwrap_or_else(|| CONTROL_SOCKET.into());
        let client = Client::new(&socket)?;
        Ok(Inspector { socket, client, directory, json })
    }

    /// A spool on disk is read as it is; without one, or for what only a daemon knows, that is asked.
    fn run(&self, command: &HooksCommand) -> anyhow::Result<()> {
        match command {
            HooksCommand::Rules => self.show(&self.client.get("/hooks/rules", &[])?, rule_line),
            HooksCommand::List => {
                self.show(&self.entries("/hooks/events", command::waiting)?, event_line)
            }
            HooksCommand::Dead => {
                self.show(&self.entries("/hooks/dead", command::dead)?, event_line)
            }
            HooksCommand::Show { id } => {
                let mut entries = self.entries("/hooks/events", command::waiting)?;
                if let Ok(Value::Array(dead)) = self.entries("/hooks/dead", command::dead) {
                    entries.as_array_mut().expect("a list").extend(dead);
                }
                let is_it = |entry: &&Value| entry["id"] == *id;
                let found = entries.as_array().and_then(|entries| entries.iter().find(is_it));
                let found =
                    found.with_context(|| format!("no event {id} waits or was given up"))?;
                self.show_whole(found)
            }
            HooksCommand::Replay { id, rule } => self.replay(*id, rule.clone()),
            HooksCommand::Tail { rule } => {
                let query = [("rule", rule.as_deref())];
                self.client.stream("/hooks/attempts/stream", &query, |attempt| {
                    self.show(&Value::Array(vec![attempt]), attempt_line).map(|()| true)
                })
            }
            HooksCommand::Test { rule, channel } => {
                let path = format!("/hooks/test/{}", control::escape(rule));
                let attempt: Value = self.client.post(&path, &[("channel", Some(channel))])?;
                self.show_whole(&attempt)?;
                let is_delivered = attempt["outcome"] == "delivered";
                anyhow::ensure!(is_delivered, "not delivered: {}", text_of(&attempt["note"]));
                Ok(())
            }
        }
    }

    /// Entries of the spool, or those that a daemon tells.
    fn entries(
        &self,
        path: &str,
        read: fn(&Path) -> io::Result<Vec<Value>>,
    ) -> anyhow::Result<Value> {
        match &self.directory {
            Some(directory) => {
                let read = read(directory);
                let context = || format!("the spool {}", directory.display());
                Ok(Value::Array(read.with_context(context)?))
            }
            None => self.all_pages(path),
        }
    }

    /// A daemon's answers come in pages, each behind the last.
    fn all_pages(&self, path: &str) -> anyhow::Result<Value> {
        let mut all = Vec::new();
        loop {
            let after = all.last().map_or(0, |entry: &Value| entry["id"].as_u64().unwrap_or(0));
            let after = after.to_string();
            let query = [("after", Some(after.as_str())), ("limit", Some("1000"))];
            match self.client.get(path, &query)? {
                Value::Array(page) if !page.is_empty() => all.extend(page),
                _ => return Ok(Value::Array(all)),
            }
        }
    }

    fn replay(&self, id: Option<u64>, rule: Option<String>) -> anyhow::Result<()> {
        let id_text = id.map(|id| id.to_string());
        let query = [("id", id_text.as_deref()), ("rule", rule.as_deref())];
        // A socket that nobody listens at is left behind by one that was killed.
        let asked: anyhow::Result<Value> = self.client.post("/hooks/replay", &query);
        let (count, when) = match (&asked, &self.directory) {
            (Ok(answer), _) => (answer["replayed"].as_u64().unwrap_or(0), "are sent"),
            (Err(_), Some(directory))
                if std::os::unix::net::UnixStream::connect(&self.socket).is_err() =>
            {
                let count = command::replay(directory, &Selection { id, rule });
                let count = count.with_context(|| format!("the spool {}", directory.display()))?;
                (count as u64, "are sent when the daemon is started")
            }
            (Err(_), _) => return asked.map(|_| ()),
        };
        match self.json {
            true => say(&format!("{{\"replayed\":{count}}}\n")),
            false => say(&format!("{count} events wait again; they {when}\n")),
        }
        Ok(())
    }

    /// Writes a list, an entry a line.
    fn show(&self, list: &Value, line: fn(&Value) -> String) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        for entry in list.as_array().into_iter().flatten() {
            let text = if self.json { entry.to_string() } else { line(entry) };
            writeln!(out, "{text}")?;
        }
        Ok(out.flush()?)
    }

    /// Writes one entry with everything that is known of it.
    fn show_whole(&self, entry: &Value) -> anyhow::Result<()> {
        let text = if self.json { entry.to_string() } else { serde_json::to_string_pretty(entry)? };
        say(&format!("{text}\n"));
        Ok(())
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The fields of `entry` with these names, those that are there.
fn fields(entry: &Value, names: &[&str]) -> String {
    let known = names.iter().filter(|name| !entry[**name].is_null());
    let shown: Vec<String> =
        known.map(|name| format!("{name}={}", text_of(&entry[*name]))).collect();
    shown.join(" ")
}

fn rule_line(rule: &Value) -> String {
    let mut line =
        fields(rule, &["rule", "app", "state", "waiting", "inFlight", "delivered", "failed"]);
    line += &format!(" {}", fields(rule, &["dead", "dropped", "isBroken", "isLooping", "target"]));
    match rule["lastFailure"]["note"].as_str() {
        Some(note) => format!("{line} last failure: {note}"),
        None => line,
    }
}

fn event_line(event: &Value) -> String {
    fields(event, &["id", "rule", "channel", "timestamp", "reason", "body", "bodyBase64"])
}

fn attempt_line(attempt: &Value) -> String {
    if let Some(missed) = attempt["missed"].as_u64() {
        return format!("{missed} attempts came too fast to be shown");
    }
    let channels = attempt["channels"].as_array().into_iter().flatten().map(text_of);
    let channels: Vec<String> = channels.collect();
    format!(
        "{} channels={} events={} {} {}",
        fields(attempt, &["time", "rule", "outcome", "note", "latencyMs", "attempt"]),
        channels.join(","),
        attempt["eventCount"],
        text_of(&attempt["request"]["url"]),
        fields(attempt, &["nextTry"]),
    )
}

/// Reads what the daemon was started with again, for its keys, apps, rules and limits.
fn reload(flags: ServeFlags, started_with: Config) -> Reload {
    Box::new(move || {
        let config = flags.clone().into_config()?;
        let needs_restart = started_with.needs_restart(&config);
        let (directory, hooks) = (config.directory()?, config.hooks()?);
        let acceptor = config.tls.to_acceptor()?;
        let limits = config.changeable_limits();
        Ok(Reloaded { directory, hooks, acceptor, limits, needs_restart })
    })
}

fn serve(mut config: Config, reload: Option<Reload>) -> anyhow::Result<()> {
    let (_, shards) = config.placement()?;
    let mut made = None;
    if config.keys.is_empty() && !config.sandbox {
        let mut bytes = [0; 24];
        getrandom::fill(&mut bytes)?;
        config.keys.push(made.insert(ApiKey::from_random(&bytes)).clone());
    }
    let examined = config.clone();
    let (server, directory) = config.into_server()?;
    let mut is_ready = false;
    let outcome = server::run(server, Arc::new(directory), reload, |addresses| {
        is_ready = true;
        let address = addresses.clients.or(addresses.tls).expect("there is a listener");
        // Scripts wait for this line; its form is part of the command line.
        say(&format!("listening on {address} shards={shards}\n"));
        if let Some(tls) = addresses.tls {
            say(&format!("TLS on {tls}\n"));
        }
        if let Some(admin) = addresses.admin {
            say(&format!("metrics on http://{admin}/metrics\n"));
        }
        if let Some(control) = addresses.control {
            say(&format!("control socket {}\n", control.display()));
        }
        if let Some(key) = made {
            say(&introduction(address, addresses.clients.is_none(), &key));
        }
    });
    if outcome.is_err() && !is_ready {
        eprint!("{}", doctor::examine(Ok(examined)).errors_text());
    }
    outcome
}

/// What somebody who has just started a daemon without a key wants to paste next.
fn introduction(address: SocketAddr, is_tls: bool, key: &ApiKey) -> String {
    // Any address is good to listen on; to connect to, it takes a real one.
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let (port, key) = (address.port(), key.to_secret_string());
    let url = SocketAddr::new(host, port);
    let (scheme, options) = match is_tls {
        true => ("https", format!("tlsPort: {port}")),
        false => ("http", format!("port: {port}, tls: false")),
    };
    let host = match host {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    format!(
        r#"
No key is configured, so this one was made; it is gone when the daemon stops:

  export RINGCAST_KEY='{key}'

Subscribe with node (npm install ably):

  node -e 'new (require("ably").Realtime)({{ key: process.env.RINGCAST_KEY,
    endpoint: "{host}", {options} }}).channels.get("hello")
    .subscribe(message => console.log(message.name, message.data))'

Publish with curl:

  curl -u "$RINGCAST_KEY" {scheme}://{url}/channels/hello/messages \
    -H 'Content-Type: application/json' -d '{{"name":"greeting","data":"hello, world"}}'

"#
    )
}

/// Writes to standard output at once; a pipe that nobody reads is no reason to fail.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
