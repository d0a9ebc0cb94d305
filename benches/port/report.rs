//! A table for people, lines of JSON for machines.

pub struct Row {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// What it is measured against, in the same unit, and its name.
    pub limit: Option<(f64, &'static str)>,
    pub note: String,
}

impl Row {
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            limit: None,
            note: String::new(),
        }
    }

    pub fn against(mut self, limit: f64, name: &'static str) -> Self {
        self.limit = Some((limit, name));
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    pub fn print(&self) {
        let ratio = self.limit.map_or(String::new(), |(limit, name)| {
            format!("{:.2} x {name} ({limit:.0})", self.value / limit)
        });
        println!(
            "{:<44} {:>12.1} {:<8} {:<34} {}",
            self.name, self.value, self.unit, ratio, self.note
        );
        if let Ok(path) = std::env::var("OMNILINK_BENCH_JSON") {
            use std::io::Write;
            let line = serde_json::json!({
                "name": self.name, "value": self.value, "unit": self.unit, "note": self.note,
                "limit": self.limit.map(|l| l.0), "limit_name": self.limit.map(|l| l.1),
                "ratio": self.limit.map(|l| self.value / l.0),
            });
            let mut file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .unwrap();
            writeln!(file, "{line}").unwrap();
        }
    }
}
