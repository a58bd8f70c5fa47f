//! Two results side by side: what is worse by more than is to be expected between two runs.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};

use super::table::{grouped, latency, table};
use crate::cli::printable;

/// What is held side by side: its name in JSON and for people, whether more is better, and whether it is judged. One run
/// in a thousand operations says too little of the last ones to judge by them.
const METRICS: [(&str, &str, bool, bool); 5] = [
    ("operations_per_s", "ops/s", true, true),
    ("mean_us", "mean", false, true),
    ("p50_us", "p50", false, true),
    ("p99_us", "p99", false, true),
    ("p999_us", "p99.9", false, false),
];

/// One figure of both.
#[derive(Debug)]
struct Row {
    run: String,
    clients: u64,
    kind: String,
    metric: (&'static str, &'static str, bool, bool),
    old: f64,
    new: f64,
    is_worse: bool,
}

impl Row {
    /// New to old.
    fn ratio(&self) -> f64 {
        self.new / self.old
    }
}

/// Both results, figure by figure.
#[derive(Debug, Default)]
pub(super) struct Compared {
    rows: Vec<Row>,
    /// Settings that are not the same.
    settings: Vec<String>,
    /// Runs that only one of them has.
    lonely: usize,
}

impl Compared {
    /// Whether anything is worse.
    pub(super) fn is_worse(&self) -> bool {
        self.rows.iter().any(|row| row.is_worse)
    }

    /// For whoever reads the JSON.
    pub(super) fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({ "name": row.run, "clients": row.clients, "kind": row.kind, "metric": row.metric.0, "old": row.old,
                "new": row.new, "ratio": (row.ratio() * 1000.0).round() / 1000.0, "worse": row.is_worse })
        };
        json!({ "rows": self.rows.iter().map(row).collect::<Vec<_>>(), "other_settings": self.settings })
    }
}

/// A run's figures by what it is: its name, its clients, its rate and how many of the like came before it.
fn runs(result: &Value) -> BTreeMap<(String, u64, String, usize), &Value> {
    let mut found = BTreeMap::new();
    for run in result["runs"].as_array().into_iter().flatten() {
        let name = run["name"].as_str().unwrap_or_default().to_string();
        let mut key = (name, run["clients"].as_u64().unwrap_or(0), run["rate"].to_string(), 0);
        while found.contains_key(&key) {
            key.3 += 1;
        }
        found.insert(key, run);
    }
    found
}

/// Holds `new` against `old`; worse is what is worse by more than `percent`.
pub(super) fn compare(old: &Value, new: &Value, percent: f64) -> Compared {
    let mut compared = Compared::default();
    let empty = serde_json::Map::new();
    let settings = |result: &'_ Value| result["settings"].as_object().cloned().unwrap_or(empty.clone());
    let (old_settings, new_settings) = (settings(old), settings(new));
    for (name, value) in &new_settings {
        if name != "url" && old_settings.get(name).unwrap_or(&Value::Null) != value {
            compared.settings.push(name.clone());
        }
    }
    let (old_runs, new_runs) = (runs(old), runs(new));
    compared.lonely = old_runs.keys().filter(|key| !new_runs.contains_key(*key)).count()
        + new_runs.keys().filter(|key| !old_runs.contains_key(*key)).count();
    for (key, run) in &new_runs {
        let Some(before) = old_runs.get(key) else { continue };
        for (kind, figures) in run["kinds"].as_object().into_iter().flatten() {
            for metric in METRICS {
                let old = before["kinds"][kind][metric.0].as_f64();
                let (Some(old), Some(new)) = (old, figures[metric.0].as_f64()) else { continue };
                if old > 0.0 && new > 0.0 {
                    let bound = 1.0 + percent / 100.0;
                    let loss = if metric.2 { old / new } else { new / old };
                    let is_worse = metric.3 && loss > bound;
                    let (run, clients, kind) = (key.0.clone(), key.1, kind.clone());
                    compared.rows.push(Row { run, clients, kind, metric, old, new, is_worse });
                }
            }
        }
    }
    compared
}

/// Prints it.
pub(super) fn print(out: &mut dyn Write, compared: &Compared, percent: f64) -> std::io::Result<()> {
    let header = ["", "clients", "figure", "before", "now", "ratio", ""].map(String::from);
    let mut table = table(header.into(), 1);
    for row in &compared.rows {
        let show = |figure: f64| {
            if row.metric.2 { grouped(figure.round() as u64) } else { latency(figure) }
        };
        let label = if row.run == "run" { row.kind.clone() } else { format!("{} {}", row.run, row.kind) };
        table.add_row([
            printable(&label),
            grouped(row.clients),
            row.metric.1.to_string(),
            show(row.old),
            show(row.new),
            format!("{:.2}", row.ratio()),
            if row.is_worse { "worse".to_string() } else { String::new() },
        ]);
    }
    writeln!(out, "{table}")?;
    if !compared.settings.is_empty() {
        let names: Vec<String> = compared.settings.iter().map(|name| printable(name)).collect();
        writeln!(out, "  not the same settings: {}", names.join(", "))?;
    }
    if compared.lonely > 0 {
        writeln!(out, "  runs that only one of the two has: {}", compared.lonely)?;
    }
    let worse = compared.rows.iter().filter(|row| row.is_worse).count();
    match (compared.rows.len(), worse) {
        (0, _) => writeln!(out, "  nothing to compare"),
        (_, 0) => writeln!(out, "  nothing is worse by more than {percent} %"),
        (_, worse) => writeln!(out, "  worse by more than {percent} %: {worse}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(clients: u64, rate: f64, p99: f64) -> Value {
        json!({ "settings": { "mix": "put=1", "url": clients }, "runs": [{ "name": "run", "clients": clients, "rate": null,
            "kinds": { "put": { "operations_per_s": rate, "p99_us": p99, "p999_us": p99 } } }] })
    }

    fn worse(old: &Value, new: &Value, percent: f64) -> Vec<&'static str> {
        let compared = compare(old, new, percent);
        compared.rows.iter().filter(|row| row.is_worse).map(|row| row.metric.0).collect()
    }

    #[test]
    fn worse_is_fewer_operations_or_more_time_beyond_the_bound() {
        let old = result(1, 1000.0, 500.0);
        assert_eq!(worse(&old, &old, 0.0), Vec::<&str>::new());
        assert_eq!(worse(&old, &result(1, 905.0, 549.0), 11.0), Vec::<&str>::new());
        assert_eq!(worse(&old, &result(1, 2000.0, 551.0), 10.0), ["p99_us"]);
        assert_eq!(worse(&old, &result(1, 900.0, 100.0), 10.0), ["operations_per_s"]);
        assert!(compare(&old, &result(1, 900.0, 100.0), 10.0).is_worse());
    }

    #[test]
    fn runs_are_found_by_what_they_are_and_other_settings_are_named() {
        let (old, mut new) = (result(1, 1000.0, 500.0), result(2, 1.0, 1.0));
        let compared = compare(&old, &new, 10.0);
        assert_eq!((compared.rows.len(), compared.lonely), (0, 2));
        new["settings"]["mix"] = "get=1".into();
        assert_eq!(compare(&old, &new, 10.0).settings, ["mix"]);
        let mut twice = result(1, 1000.0, 500.0);
        let mut again = result(1, 100.0, 500.0)["runs"][0].clone();
        twice["runs"].as_array_mut().unwrap().push(again.take());
        assert_eq!(worse(&twice, &twice, 1.0), Vec::<&str>::new());
        let mut text = Vec::new();
        print(&mut text, &compare(&twice, &twice, 10.0), 10.0).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("nothing is worse by more than 10 %"));
    }
}
