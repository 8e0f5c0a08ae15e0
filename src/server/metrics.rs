//! What the monitor knows, in the text format of Prometheus. `docs/metrics.md` says why one looks at each;
//! a test holds it against this list.

use std::fmt::Write;
use std::time::Duration;

use super::orders::Report;
use super::process::Process;
use super::tls::FAILURES;
use crate::base::Histogram;
use crate::shard::Refusals;
use crate::tls::CertificateFacts;

/// One number of each shard. Units are base units: seconds, bytes.
struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: fn(&Report) -> f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

macro_rules! metrics {
    ($($kind:ident $name:literal $help:literal $($path:ident).+;)*) => {
        [$(Metric {
            name: $name,
            kind: Kind::$kind,
            help: $help,
            value: |report| report.$($path).+ as f64,
        },)*]
    };
}

const OF_SHARDS: &[Metric] = &metrics! {
    Counter "ringcast_turns_total" "Turns of the loop." turns;
    Counter "ringcast_sleeps_total" "Times the loop had nothing to do." sleeps;
    Counter "ringcast_accept_failures_total" "Accepts that have failed." accept_failures;
    Counter "ringcast_received_bytes_total" "Bytes received from clients." received_bytes;
    Counter "ringcast_sent_bytes_total" "Bytes that the kernel has taken for clients." sent_bytes;
    Counter "ringcast_transports_accepted_total" "Sockets accepted." counters.accepted;
    Counter "ringcast_publications_total" "Publications ordered by channels at home here." counters.published;
    Counter "ringcast_stream_sends_total" "Sends of channel frames; one may carry several frames." counters.stream_sends;
    Counter "ringcast_slow_consumers_total" "Subscribers disconnected because they lagged." counters.slow_consumers;
    Counter "ringcast_questions_total" "Questions to rules before a publish." counters.questions;
    Counter "ringcast_failed_questions_total" "Questions without a usable answer." counters.failed_questions;
    Counter "ringcast_rejected_publishes_total" "Publishes that a rule has refused." counters.rejected_publishes;
    Counter "ringcast_tls_handshakes_total" "TLS handshakes that have ended well." tls.handshakes;
    Counter "ringcast_tls_resumed_total" "Of them, those that a ticket has shortened." tls.resumed;
    Counter "ringcast_log_events_total" "Events of persisted channels that were given to the message log." counters.journal.events;
    Counter "ringcast_log_written_bytes_total" "Bytes written to the message log." counters.journal.written_bytes;
    Counter "ringcast_log_writes_total" "Writes to the message log." counters.journal.writes;
    Counter "ringcast_log_syncs_total" "Synchronisations of the message log." counters.journal.syncs;
    Counter "ringcast_log_failures_total" "Operations on the message log that have failed." counters.journal.failures;
    Counter "ringcast_log_given_up_events_total" "Events that were accepted, could not be kept and were taken back." counters.journal.given_up;
    Counter "ringcast_log_read_bytes_total" "Bytes read from the message log." counters.journal.read_bytes;
    Gauge "ringcast_transports" "Open sockets." gauges.transports;
    Gauge "ringcast_transports_max" "Sockets that the shard accepts at most." transports_max;
    Gauge "ringcast_connections" "Realtime connections with a transport." gauges.connections;
    Gauge "ringcast_dormant_connections" "Connections that may be resumed." gauges.dormant_connections;
    Gauge "ringcast_streams" "Channels, formats and views with subscribers here." gauges.streams;
    Gauge "ringcast_channels" "Channels that are at home here." gauges.channels;
    Gauge "ringcast_history_bytes" "Bytes of the histories of these channels." gauges.history_bytes;
    Gauge "ringcast_log_bytes" "Bytes of the message log on disk." gauges.journal.disk_bytes;
    Gauge "ringcast_log_waiting_bytes" "Bytes that wait for the disk." gauges.journal.waiting_bytes;
    Gauge "ringcast_log_index_entries" "Entries of the index of the message log." gauges.journal.index_entries;
    Gauge "ringcast_log_failing" "1 while the message log cannot be written." gauges.journal.failing;
    Gauge "ringcast_publishes_waiting" "Publishes that wait for the answer of a rule." gauges.publishes_waiting;
    Gauge "ringcast_counted_holders" "Addresses and keys whose connections are counted here." gauges.seat_holders;
    Gauge "ringcast_ring_depth" "Completions and submissions waiting at the start of a turn, at most, in the last second." ring_depth;
    Gauge "ringcast_mesh_depth" "Mail that one turn has taken in, at most, in the last second." mesh_depth;
    Gauge "ringcast_mail_waiting" "Mail to other shards that has found no room in the mesh." gauges.mail_waiting;
    Gauge "ringcast_mail_waiting_bytes" "Bytes of messages in this mail." gauges.mail_waiting_bytes;
};

/// A histogram of each shard, in base units.
struct HistogramMetric {
    name: &'static str,
    help: &'static str,
    sample: fn(&mut String, &str, Labels, &Report),
}

macro_rules! histograms {
    ($($name:literal $help:literal $per_unit:literal $($path:ident).+;)*) => {
        [$(HistogramMetric {
            name: $name,
            help: $help,
            sample: |text, name, labels, report| {
                histogram(text, name, labels, &report.$($path).+, $per_unit);
            },
        },)*]
    };
}

const HISTOGRAMS: &[HistogramMetric] = &histograms! {
    "ringcast_turn_seconds" "Duration of turns." 1e6 turn_us;
    "ringcast_turn_sends" "Sends that one turn has submitted, where there were some." 1.0 turn_sends;
    "ringcast_publish_seconds" "From the arrival of a publish to its acknowledgement, of one publish at a time." 1e6 histograms.publish_us;
    "ringcast_fanout_seconds" "From the arrival of frames on the core to the last send of them." 1e6 histograms.round_us;
    "ringcast_publication_size_bytes" "Size of publications ordered here." 1.0 histograms.publication_bytes;
    "ringcast_slow_consumer_lag_bytes" "What subscribers were behind that were disconnected for it." 1.0 histograms.slow_consumer_bytes;
};

/// Of a shard, beyond what it reports.
pub(super) struct OfShard<'a> {
    /// The CPU that it is pinned to.
    pub cpu: usize,
    /// Its latest report.
    pub report: &'a Report,
    /// Since when its number of turns has not changed.
    pub still: Duration,
    /// Times that it was said to stand still.
    pub stalls: u64,
}

/// Which shard a sample is of.
#[derive(Clone, Copy)]
struct Labels {
    cpu: usize,
    shard: usize,
}

/// Everything, as one text.
pub(super) fn render(
    shards: &[OfShard<'_>],
    is_draining: bool,
    certificates: &[CertificateFacts],
    process: &Process,
) -> String {
    let mut text = String::with_capacity(4096 + shards.len() * OF_SHARDS.len() * 64);
    let per_shard = |text: &mut String, metric: &Metric| {
        head(text, metric.name, metric.kind, metric.help);
        for (shard, of) in shards.iter().enumerate() {
            sample(text, metric.name, of.cpu, shard, (metric.value)(of.report));
        }
    };
    OF_SHARDS.iter().for_each(|metric| per_shard(&mut text, metric));
    for metric in HISTOGRAMS {
        head(&mut text, metric.name, Kind::Histogram, metric.help);
        for (shard, of) in shards.iter().enumerate() {
            (metric.sample)(&mut text, metric.name, Labels { cpu: of.cpu, shard }, of.report);
        }
    }
    let name = "ringcast_stalls_total";
    head(&mut text, name, Kind::Counter, "Times that the shard was found to stand still.");
    for (shard, of) in shards.iter().enumerate() {
        sample(&mut text, name, of.cpu, shard, of.stalls as f64);
    }
    let name = "ringcast_sleep_seconds_total";
    head(&mut text, name, Kind::Counter, "Time that the loop has slept.");
    for (shard, of) in shards.iter().enumerate() {
        sample(&mut text, name, of.cpu, shard, of.report.slept.as_secs_f64());
    }
    let name = "ringcast_standstill_seconds";
    head(&mut text, name, Kind::Gauge, "Time since the shard was last seen to turn.");
    for (shard, of) in shards.iter().enumerate() {
        sample(&mut text, name, of.cpu, shard, of.still.as_secs_f64());
    }
    let name = "ringcast_connects_refused_total";
    head(&mut text, name, Kind::Counter, "Clients that were not let in, by what kept them out.");
    for (shard, of) in shards.iter().enumerate() {
        let Refusals { rate, address, key, sockets } = of.report.counters.refused;
        for (reason, count) in
            [("rate", rate), ("address", address), ("key", key), ("sockets", sockets)]
        {
            reason_sample(&mut text, name, of.cpu, shard, reason, count);
        }
    }
    let name = "ringcast_tls_failures_total";
    head(&mut text, name, Kind::Counter, "TLS sessions that have not ended well, by reason.");
    for (shard, of) in shards.iter().enumerate() {
        let (cpu, failures) = (of.cpu, of.report.tls.failures);
        for (reason, count) in FAILURES.iter().zip(failures) {
            reason_sample(&mut text, name, cpu, shard, reason, count);
        }
    }
    let name = "ringcast_tls_certificate_not_after_timestamp_seconds";
    head(&mut text, name, Kind::Gauge, "When a certificate expires, since 1970.");
    for (index, facts) in certificates.iter().enumerate() {
        let of = facts.names.first().map_or_else(String::new, |name| label(name));
        let _ = writeln!(text, "{name}{{index=\"{index}\",name=\"{of}\"}} {}", facts.not_after_s);
    }
    head(&mut text, "ringcast_draining", Kind::Gauge, "1 while clients are sent away.");
    let _ = writeln!(text, "ringcast_draining {}", u8::from(is_draining));
    head(&mut text, "ringcast_build_info", Kind::Gauge, "1; the version is in the label.");
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(text, "ringcast_build_info{{version=\"{version}\"}} 1");
    let Process { cpu_seconds, resident_bytes, open_fds, max_fds, start_seconds } = *process;
    for (name, kind, help, value) in [
        ("process_cpu_seconds_total", Kind::Counter, "CPU time of all threads.", cpu_seconds),
        ("process_resident_memory_bytes", Kind::Gauge, "Resident memory.", resident_bytes as f64),
        ("process_open_fds", Kind::Gauge, "Open file descriptors.", open_fds as f64),
        ("process_max_fds", Kind::Gauge, "File descriptors that may be open.", max_fds as f64),
        ("process_start_time_seconds", Kind::Gauge, "Start, since the Unix epoch.", start_seconds),
    ] {
        head(&mut text, name, kind, help);
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

/// All samples of one histogram. `per_unit` of what it counts make one base unit.
fn histogram<const FIRST: u32, const BUCKETS: usize>(
    text: &mut String,
    name: &str,
    Labels { cpu, shard }: Labels,
    histogram: &Histogram<FIRST, BUCKETS>,
    per_unit: f64,
) {
    let labels = format!("core=\"{cpu}\",shard=\"{shard}\"");
    for (bound, count) in histogram.buckets() {
        let bound = bound as f64 / per_unit;
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
    }
    let (count, sum) = (histogram.count(), histogram.sum() as f64 / per_unit);
    let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
}

fn head(text: &mut String, name: &str, kind: Kind, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.name());
}

fn sample(text: &mut String, name: &str, cpu: usize, shard: usize, value: f64) {
    let _ = writeln!(text, "{name}{{core=\"{cpu}\",shard=\"{shard}\"}} {value}");
}

/// `value` as the value of a label.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn reason_sample(
    text: &mut String,
    name: &str,
    cpu: usize,
    shard: usize,
    reason: &str,
    count: u64,
) {
    let labels = format!("core=\"{cpu}\",shard=\"{shard}\",reason=\"{reason}\"");
    let _ = writeln!(text, "{name}{{{labels}}} {count}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        let mut report =
            Report { turns: 7, slept: Duration::from_millis(1500), ..Report::default() };
        [10, 100, 3_000_000].into_iter().for_each(|us| report.turn_us.observe(us));
        let still = Duration::from_millis(250);
        let process = Process { resident_bytes: 4096, ..Process::default() };
        let certificate = |name: &str, not_after_s| CertificateFacts {
            serial: "01".into(),
            names: vec![name.into(), "b".into()],
            not_before_s: 0,
            not_after_s,
            not_after: "some day".into(),
        };
        let certificates = [certificate("a", 7_000_000_000), certificate("*.\"\\\n", 8)];
        render(
            &[OfShard { cpu: 3, report: &report, still, stalls: 2 }],
            true,
            &certificates,
            &process,
        )
    }

    #[test]
    fn every_sample_has_one_head_and_says_which_core() {
        let text = text();
        for line in [
            "# TYPE ringcast_turns_total counter",
            "ringcast_turns_total{core=\"3\",shard=\"0\"} 7",
            "ringcast_sleep_seconds_total{core=\"3\",shard=\"0\"} 1.5",
            "ringcast_standstill_seconds{core=\"3\",shard=\"0\"} 0.25",
            "ringcast_tls_certificate_not_after_timestamp_seconds{index=\"0\",name=\"a\"} 7000000000",
            "ringcast_tls_certificate_not_after_timestamp_seconds{index=\"1\",name=\"*.\\\"\\\\\\n\"} 8",
            "ringcast_draining 1",
            "ringcast_stalls_total{core=\"3\",shard=\"0\"} 2",
            "# TYPE ringcast_turn_seconds histogram",
            "ringcast_turn_seconds_bucket{core=\"3\",shard=\"0\",le=\"0.000016\"} 1",
            "ringcast_turn_seconds_bucket{core=\"3\",shard=\"0\",le=\"0.000128\"} 2",
            "ringcast_turn_seconds_bucket{core=\"3\",shard=\"0\",le=\"2.097152\"} 2",
            "ringcast_turn_seconds_bucket{core=\"3\",shard=\"0\",le=\"+Inf\"} 3",
            "ringcast_turn_seconds_sum{core=\"3\",shard=\"0\"} 3.00011",
            "ringcast_turn_seconds_count{core=\"3\",shard=\"0\"} 3",
            "process_resident_memory_bytes 4096",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let mut names: Vec<_> = names.filter_map(|rest| rest.split(' ').next()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a name is there twice");
        let counters = text.lines().filter_map(|line| line.strip_suffix(" counter"));
        assert!(counters.into_iter().all(|name| name.ends_with("_total")));
    }

    #[test]
    fn the_list_of_metrics_documents_each_and_no_other() {
        let reference = include_str!("../../docs/metrics.md");
        let rows = reference.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let mut documented: Vec<_> = rows.collect();
        // What is added to it by whoever knows the rules.
        let text = text() + &crate::hooks::render_metrics(&[]);
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let mut rendered: Vec<_> = names.collect();
        documented.sort_unstable();
        rendered.sort_unstable();
        assert_eq!(documented, rendered);
    }
}
