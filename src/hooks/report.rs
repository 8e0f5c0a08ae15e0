//! How each rule fares, for operators and collectors.

use std::fmt::Write;

use serde::Serialize;

/// One rule and what has become of its events.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleSummary {
    /// Its id.
    pub rule: Box<str>,
    /// The app that it is for.
    pub app: Box<str>,
    /// Where its events go, without a query.
    pub target: String,
    /// Whether it sends.
    pub state: RuleState,
    /// Whether it is asked before a publish, and so has no events.
    pub is_gate: bool,
    /// Events that wait or are under way.
    pub waiting: usize,
    /// Bytes of these, also on their way here.
    pub waiting_bytes: u64,
    /// Requests under way.
    pub in_flight: usize,
    /// Whether so much has failed that one request at a time tries the endpoint.
    pub is_broken: bool,
    /// Whether it was found to feed itself.
    pub is_looping: bool,
    /// Events that were delivered since the start.
    pub delivered: u64,
    /// Requests that have failed since the start.
    pub failed: u64,
    /// Events that were given up since the start: dead letters.
    pub dead: u64,
    /// Events that had to make room since the start.
    pub dropped: u64,
    /// Times that it was found to feed itself.
    pub loops: u64,
    /// The last request that has failed: in words, and when.
    pub last_failure: Option<LastFailure>,
}

/// Whether a rule sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleState {
    /// It does.
    Enabled,
    /// It is disabled.
    Disabled,
    /// It feeds itself and is not to do so.
    Paused,
}

/// A request that has failed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastFailure {
    /// In milliseconds since the Unix epoch.
    pub time: u64,
    /// A status, or what has failed.
    pub note: String,
}

/// One number of each rule, in the text format of Prometheus.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&RuleSummary) -> u64,
}

const METRICS: [Metric; 9] = [
    Metric {
        name: "ringcast_hook_waiting",
        kind: "gauge",
        help: "Events of a rule that wait or are under way.",
        value: |rule| rule.waiting as u64,
    },
    Metric {
        name: "ringcast_hook_waiting_bytes",
        kind: "gauge",
        help: "Bytes of these events.",
        value: |rule| rule.waiting_bytes,
    },
    Metric {
        name: "ringcast_hook_in_flight",
        kind: "gauge",
        help: "Requests of a rule that are under way.",
        value: |rule| rule.in_flight as u64,
    },
    Metric {
        name: "ringcast_hook_broken",
        kind: "gauge",
        help: "1 while one request at a time tries the endpoint of a rule.",
        value: |rule| rule.is_broken.into(),
    },
    Metric {
        name: "ringcast_hook_delivered_total",
        kind: "counter",
        help: "Events of a rule that were delivered.",
        value: |rule| rule.delivered,
    },
    Metric {
        name: "ringcast_hook_failed_requests_total",
        kind: "counter",
        help: "Requests of a rule that have failed.",
        value: |rule| rule.failed,
    },
    Metric {
        name: "ringcast_hook_dead_total",
        kind: "counter",
        help: "Events of a rule that were given up.",
        value: |rule| rule.dead,
    },
    Metric {
        name: "ringcast_hook_dropped_total",
        kind: "counter",
        help: "Events of a rule that had to make room.",
        value: |rule| rule.dropped,
    },
    Metric {
        name: "ringcast_hook_loops_total",
        kind: "counter",
        help: "Times that a rule was found to feed itself.",
        value: |rule| rule.loops,
    },
];

/// The numbers of all rules, in the text format of Prometheus.
pub fn render(rules: &[RuleSummary]) -> String {
    let mut text = String::new();
    for Metric { name, kind, help, value } in &METRICS {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for rule in rules {
            // Ids have nothing in them that a label would have to escape.
            let _ = writeln!(text, "{name}{{rule=\"{}\"}} {}", rule.rule, value(rule));
        }
    }
    text
}
