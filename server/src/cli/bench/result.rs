//! What came of a run, and all of it as JSON. `format` grows when a member changes its meaning.

use serde_json::{Map, Value, json};

use super::driver::Driven;
use super::host;
use super::record::Latencies;
use super::session::Measured;
use super::workload::KINDS;

/// The version of the JSON.
const FORMAT: u64 = 1;

/// The quantiles that are told: what they are called in JSON, what over a column, and which.
pub(super) const QUANTILES: [(&str, &str, f64); 5] = [
    ("p50_us", "p50", 0.5),
    ("p90_us", "p90", 0.9),
    ("p99_us", "p99", 0.99),
    ("p999_us", "p99.9", 0.999),
    ("p9999_us", "p99.99", 0.9999),
];

/// One run.
pub(super) struct RunResult {
    /// What it is called.
    pub(super) name: String,
    /// How many clients it had.
    pub(super) clients: usize,
    /// Operations a second that were due, in an open loop.
    pub(super) rate: Option<f64>,
    /// Processors that the load generator itself kept busy, on average.
    pub(super) cores: Option<f64>,
    /// What was measured.
    pub(super) driven: Driven,
}

impl RunResult {
    /// Operations a second, of a number of them.
    pub(super) fn per_second(&self, operations: u64) -> f64 {
        operations as f64 / self.driven.elapsed.as_secs_f64().max(1e-9)
    }

    /// Operations that failed or were given up.
    pub(super) fn failed(&self) -> u64 {
        self.driven.records.error_count() + self.driven.given_up
    }

    fn json(&self) -> Value {
        let records = &self.driven.records;
        let mut kinds = Map::new();
        for kind in KINDS {
            if let Some(latencies) = records.kind(kind) {
                kinds.insert(kind.name().into(), self.latencies(latencies));
            }
        }
        json!({
            "name": self.name,
            "clients": self.clients,
            "loop": if self.rate.is_some() { "open" } else { "closed" },
            "rate": self.rate,
            "elapsed_s": rounded(self.driven.elapsed.as_secs_f64(), 1e6),
            "interrupted": self.driven.is_interrupted,
            "all": self.latencies(&records.all()),
            "kinds": kinds,
            "errors": records.errors,
            "error_count": records.error_count(),
            "wrong": records.wrong,
            "due_not_sent": self.driven.unsent,
            "sent_late": records.late.as_ref().map(|late| self.latencies(late)),
            "given_up": self.driven.given_up,
            "reconnected_idle": records.reopened,
            "generator_cores": self.cores.map(|cores| rounded(cores, 100.0)),
            "per_second": records.per_second,
        })
    }

    fn latencies(&self, latencies: &Latencies) -> Value {
        let mut json = Map::new();
        json.insert("operations".into(), latencies.histogram.len().into());
        json.insert("operations_per_s".into(), json!(rounded(self.per_second(latencies.in_time), 10.0)));
        json.insert("missing".into(), latencies.missing.into());
        if !latencies.histogram.is_empty() {
            json.insert("mean_us".into(), json!(rounded(latencies.histogram.mean() / 1000.0, 10.0)));
            for (name, _, quantile) in QUANTILES {
                json.insert(name.into(), json!(rounded(latencies.quantile_us(quantile), 10.0)));
            }
            json.insert("max_us".into(), json!(rounded(latencies.quantile_us(1.0), 10.0)));
        }
        Value::Object(json)
    }
}

/// A number with so many parts of one kept.
fn rounded(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

/// All of it.
pub(super) fn json(settings: Map<String, Value>, measured: &Measured) -> Value {
    json!({
        "format": FORMAT,
        "program": concat!("lumen ", env!("CARGO_PKG_VERSION")),
        "date": host::now(),
        "host": host::describe(),
        "settings": settings,
        "interrupted": measured.is_interrupted,
        "failure": measured.failure.as_ref().map(ToString::to_string),
        "load": measured.load.as_ref().map(RunResult::json),
        "runs": measured.runs.iter().map(RunResult::json).collect::<Vec<_>>(),
    })
}
