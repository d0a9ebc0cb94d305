//! Reports: a table on standard output, JSON lines in a file.
#![allow(dead_code, reason = "not every bench uses all of it")]

use std::collections::BTreeMap;

/// The arguments of a bench: words and numbers.
pub struct Arguments(Vec<String>);

impl Arguments {
    pub fn given() -> Option<Self> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        // `cargo bench` adds `--bench`; `cargo test` runs benches with `--test` or `--list`, which must not measure.
        let none = args.iter().any(|a| a == "--test" || a == "--list");
        (!none).then_some(Self(args))
    }

    pub fn named(&self, name: &str) -> bool {
        self.0.iter().any(|a| a == name)
    }

    /// The number with this index among the numbers.
    pub fn number(&self, at: usize, default: usize) -> usize {
        let mut numbers = self.0.iter().filter_map(|a| a.parse().ok());
        numbers.nth(at).unwrap_or(default)
    }
}

/// The target of a figure.
#[derive(Clone, Copy)]
enum Target {
    /// A minimum of the ratio to its limit.
    RatioAtLeast(f64),
    /// A maximum of the value.
    Below(f64),
}

pub struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// The limit that it is compared with, in the same unit, and its name.
    limit: Option<(f64, &'static str)>,
    target: Option<Target>,
    note: String,
}

impl Row {
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            limit: None,
            target: None,
            note: String::new(),
        }
    }

    pub fn against(mut self, limit: f64, name: &'static str) -> Self {
        self.limit = Some((limit, name));
        self
    }

    /// Sets the minimum of the ratio to the limit.
    pub fn target_ratio(mut self, minimum: f64) -> Self {
        self.target = Some(Target::RatioAtLeast(minimum));
        self
    }

    /// Sets the maximum of the value.
    pub fn target_below(mut self, bound: f64) -> Self {
        self.target = Some(Target::Below(bound));
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn ratio(&self) -> Option<f64> {
        self.limit.map(|(limit, _)| self.value / limit)
    }

    /// Whether the target is met, and the target as text.
    fn verdict(&self) -> Option<(bool, String)> {
        match self.target? {
            Target::RatioAtLeast(minimum) => Some((
                self.ratio()? >= minimum,
                format!(">= {} x", digits(minimum)),
            )),
            Target::Below(bound) => {
                Some((self.value < bound, format!("< {bound:.1} {}", self.unit)))
            }
        }
    }

    pub fn print(&self) {
        let against = self.limit.map_or(String::new(), |(limit, name)| {
            format!(" {} x {name} ({limit:.1})", digits(self.value / limit))
        });
        let target = self.verdict().map_or(String::new(), |(good, target)| {
            format!(
                "  {} (target: {target})",
                if good { "ok" } else { "MISSED" }
            )
        });
        let figure = format!("{:<50} {:>11.1} {:<8}", self.name, self.value, self.unit);
        println!("{}", format!("{figure}{against}{target}").trim_end());
        if !self.note.is_empty() {
            println!("    {}", self.note);
        }
        let verdict = self.verdict();
        json(&serde_json::json!({
            "name": self.name, "value": self.value, "unit": self.unit, "note": self.note,
            "limit": self.limit.map(|l| l.0), "limit_name": self.limit.map(|l| l.1), "ratio": self.ratio(),
            "asked": verdict.as_ref().map(|v| &v.1), "as_asked": verdict.as_ref().map(|v| v.0),
        }));
    }
}

/// A ratio with two digits after the point, or with three of its own if it is small.
fn digits(ratio: f64) -> String {
    if ratio < 0.1 {
        format!("{ratio:.4}")
    } else {
        format!("{ratio:.2}")
    }
}

/// Prints an earlier figure of something that did not run, with its date.
pub fn quoted(name: &str, figure: &str, date: &str) {
    println!("{name:<50} {figure}  (quoted, {date}; not run)");
    json(&serde_json::json!({ "name": name, "quoted": figure, "date": date }));
}

/// Prints processor time per event by part.
pub fn cpu(name: &str, parts: &BTreeMap<&'static str, f64>, events: f64) {
    let each: BTreeMap<_, _> = parts
        .iter()
        .map(|(part, used)| (*part, used / events.max(1.0)))
        .filter(|(_, used)| *used >= 0.005)
        .collect();
    for (part, used) in &each {
        println!("    {part:<26} {used:>7.2} us CPU an event");
    }
    let total: f64 = each.values().sum();
    println!("    {:<26} {total:>7.2} us CPU an event", "together");
    json(
        &serde_json::json!({ "name": format!("{name}: CPU"), "unit": "us an event", "value": total, "parts": each }),
    );
}

fn json(line: &serde_json::Value) {
    use std::io::Write;
    let Ok(path) = std::env::var("OMNILINK_BENCH_JSON") else {
        return;
    };
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    writeln!(file, "{line}").unwrap();
}

/// The median.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    percentile(values.into_iter().collect(), 0.5)
}

/// The percentile for a share between 0 and 1; 0 without values.
pub fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let index = ((values.len() as f64 * share) as usize).min(last);
    values.get(index).copied().unwrap_or_default()
}
