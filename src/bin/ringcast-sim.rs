//! Runs the simulator: many seeds, or one whose story is printed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use ringcast::sim::{self, Finding, Report, Sabotage};

/// Runs shards as they ship under a clock, a network and a chance of the simulator's making, and holds
/// what clients were told against the promise
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// How many seeds to run
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Threads that run seeds beside each other
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Run this one seed, twice, and compare
    #[arg(long, conflicts_with_all = ["seeds", "from", "threads"])]
    seed: Option<u64>,
    /// Print what happens, with --seed
    #[arg(long, requires = "seed")]
    trace: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.seed {
        Some(seed) => run_one(seed, args.trace),
        None => run_many(&args),
    }
}

fn run_one(seed: u64, is_traced: bool) -> ExitCode {
    let first = sim::run(seed, Sabotage::default(), is_traced);
    let second = sim::run(seed, Sabotage::default(), false);
    print_table(&[&first]);
    for finding in &first.findings {
        println!("{}: {}", finding.kind, finding.text);
    }
    if first.digest != second.digest {
        println!("the second run was another: {:016x}, {:016x}", first.digest, second.digest);
        return ExitCode::FAILURE;
    }
    ExitCode::from(u8::from(!first.findings.is_empty()))
}

/// One seed; a panic of a shard is a finding.
fn run(seed: u64) -> Report {
    catch_unwind(AssertUnwindSafe(|| sim::run(seed, Sabotage::default(), false))).unwrap_or_else(
        |panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.into()));
            let finding = Finding { kind: "panic", text: text.unwrap_or_default() };
            Report { findings: vec![finding], ..Report::new(seed, false) }
        },
    )
}

fn run_many(args: &Args) -> ExitCode {
    let next = AtomicU64::new(args.from);
    let end = args.from.saturating_add(args.seeds);
    let sum = Mutex::new((Report::default(), 0));
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let report = run(seed);
                    for finding in report.findings.iter().take(1) {
                        let text: String = finding.text.chars().take(400).collect();
                        println!("seed {seed}: {}: {text}", finding.kind);
                    }
                    let (sum, with_findings) = &mut *sum.lock().expect("no panic holds it");
                    sum.add(&report);
                    *with_findings += u64::from(!report.findings.is_empty());
                }
            });
        }
    });
    let (sum, with_findings) = sum.into_inner().expect("no panic holds it");
    print_table(&[&sum]);
    println!("{} seeds from {}, {with_findings} with findings", args.seeds, args.from);
    ExitCode::from(u8::from(with_findings > 0))
}

fn print_table(reports: &[&Report]) {
    println!(
        "{:>12} {:>7} {:>11} {:>9} {:>9} {:>9} {:>9} {:>15} {:>10} {:>9} {:>11}",
        "turns",
        "kills",
        "transports",
        "connects",
        "drops",
        "resumes",
        "publishes",
        "discontinuities",
        "deliveries",
        "refused",
        "findings"
    );
    for report in reports {
        println!(
            "{:>12} {:>7} {:>11} {:>9} {:>9} {:>9} {:>9} {:>15} {:>10} {:>9} {:>11}",
            report.turns,
            report.kills,
            report.transports,
            report.connects,
            report.drops,
            report.resumes,
            report.publishes,
            report.discontinuities,
            report.deliveries,
            report.refused,
            report.findings.len()
        );
    }
}
