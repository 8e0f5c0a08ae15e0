//! The command line: flags to a configuration, a configuration to the daemon.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use ringcast::bench::{self, BenchArgs};
use ringcast::config::{ApiKey, Config, SandboxFlags, ServeFlags};
use ringcast::doctor;
use ringcast::hooks::{command, spool_directory};
use ringcast::server::{self, Reload, Reloaded};
use ringcast::tls::CertificateFacts;

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
    Bench(BenchArgs),
    /// Print configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// See which events of rules wait for their delivery, and which were given up
    Hooks {
        #[command(subcommand)]
        command: HooksCommand,
        /// Configuration file (TOML) with `server.state_dir`
        #[arg(long, value_name = "FILE", global = true)]
        config: Option<PathBuf>,
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
    /// Events that wait, one JSON object a line
    List,
    /// Events that were given up, and why
    Dead,
    /// Have events that were given up wait again; while the daemon is stopped
    Replay,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringcast: {error:#}");
            ExitCode::FAILURE
        }
    }
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
        Command::Bench(args) => bench::run(&args),
        Command::Hooks { command, config } => hooks(&command, config.as_deref()),
        Command::Check(flags) => {
            let name = flags.config.as_ref().map(|path| path.display().to_string());
            let config = flags.into_config()?;
            let (cores, shards) = config.placement()?;
            config.directory()?;
            config.hooks()?;
            config.admin()?;
            let acceptor = config.tls.to_acceptor()?;
            say(&format!(
                "{}: ok\nlisten {}, cores {cores:?}, shards {shards}, keys {}\n",
                name.as_deref().unwrap_or("defaults"),
                config.listen,
                config.keys.len(),
            ));
            if let Some(acceptor) = acceptor {
                say(&certificate(acceptor.facts()));
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

/// What `check` says of the certificate.
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

fn hooks(command: &HooksCommand, config: Option<&Path>) -> anyhow::Result<()> {
    let path = config.context("which configuration file? Say --config FILE")?;
    let state_dir = Config::load(path)?.state_dir;
    let state_dir = state_dir.with_context(|| {
        format!("{}: there is no `server.state_dir`, so nothing is kept", path.display())
    })?;
    let directory = spool_directory(&state_dir);
    let mut out = io::stdout().lock();
    let done = match command {
        HooksCommand::List => command::list(&directory, &mut out),
        HooksCommand::Dead => command::dead(&directory, &mut out),
        HooksCommand::Replay => command::replay(&directory).and_then(|count| {
            writeln!(out, "{count} events wait again; they are sent when the daemon is started")
        }),
    };
    done.with_context(|| format!("the spool {}", directory.display()))
}

/// Reads what the daemon was started with again, for its keys, apps and rules.
fn reload(flags: ServeFlags, started_with: Config) -> Reload {
    Box::new(move || {
        let config = flags.clone().into_config()?;
        let needs_restart = started_with.needs_restart(&config);
        let (directory, hooks) = (config.directory()?, config.hooks()?);
        let acceptor = config.tls.to_acceptor()?;
        Ok(Reloaded { directory, hooks, acceptor, needs_restart })
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
        let address = addresses.clients;
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
            say(&introduction(address, &key));
        }
    });
    if outcome.is_err() && !is_ready {
        eprint!("{}", doctor::examine(Ok(examined)).errors_text());
    }
    outcome
}

/// What somebody who has just started a daemon without a key wants to paste next.
fn introduction(address: SocketAddr, key: &ApiKey) -> String {
    // Any address is good to listen on; to connect to, it takes a real one.
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let (port, key) = (address.port(), key.to_secret_string());
    let url = SocketAddr::new(host, port);
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
    endpoint: "{host}", port: {port}, tls: false }}).channels.get("hello")
    .subscribe(message => console.log(message.name, message.data))'

Publish with curl:

  curl -u "$RINGCAST_KEY" http://{url}/channels/hello/messages \
    -H 'Content-Type: application/json' -d '{{"name":"greeting","data":"hello, world"}}'

"#
    )
}

/// Writes to standard output at once; a pipe that nobody reads is no reason to fail.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
