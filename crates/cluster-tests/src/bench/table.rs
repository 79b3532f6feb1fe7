//! Figures and the table of them.

use serde_json::{Value, json};

/// What is to be reached.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Median and maximum, milliseconds.
    AtMostMs(f64, f64),
    /// At most so many times what etcd has.
    RatioAtMost(f64),
    /// At least so many times what etcd has.
    RatioAtLeast(f64),
    /// Nothing; the figure is of interest.
    None,
}

/// What one server had, round by round.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Figures of the rounds that gave one.
    pub values: Vec<f64>,
    /// Rounds that gave none, requests that failed, and what they said.
    pub failures: Vec<String>,
}

/// One line of the table.
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Of the figures.
    pub unit: &'static str,
    /// netsy's.
    pub netsy: Option<Measured>,
    /// etcd's.
    pub etcd: Option<Measured>,
    /// Netsy's goal.
    pub goal: Goal,
}

impl Measured {
    fn sorted(&self) -> Vec<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The middle value, or the mean of the two middle ones.
    pub fn median(&self) -> Option<f64> {
        let values = self.sorted();
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            count if count % 2 == 1 => Some(values[middle]),
            _ => Some((values[middle - 1] + values[middle]) / 2.0),
        }
    }

    /// The greatest.
    pub fn max(&self) -> Option<f64> {
        self.sorted().last().copied()
    }

    fn cell(&self, unit: &str) -> String {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), number);
        let mut text = format!("{} (max {}, {} rounds)", number(self.median()), number(self.max()), self.values.len());
        if self.values.len() == 1 {
            text = number(self.median());
        }
        text += &format!(" {unit}");
        if !self.failures.is_empty() {
            text += &format!("; {} failed", self.failures.len());
        }
        text
    }

    fn json(&self) -> Value {
        let shown: Vec<&String> = self.failures.iter().take(20).collect();
        json!({ "median": self.median(), "max": self.max(), "rounds": self.values, "failed": self.failures.len(), "failures": shown })
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

impl Row {
    /// netsy's median as so many times etcd's.
    fn ratio(&self) -> Option<f64> {
        let (netsy, etcd) = (self.netsy.as_ref()?.median()?, self.etcd.as_ref()?.median()?);
        (etcd > 0.0).then_some(netsy / etcd)
    }

    /// Was the goal reached? `None`: there is none, or not the figures to tell.
    pub fn reached(&self) -> Option<bool> {
        let netsy = self.netsy.as_ref()?;
        match self.goal {
            Goal::None => None,
            Goal::AtMostMs(median, max) => {
                Some(netsy.failures.is_empty() && netsy.median()? <= median && netsy.max()? <= max)
            }
            Goal::RatioAtMost(limit) => Some(self.ratio()? <= limit),
            Goal::RatioAtLeast(limit) => Some(self.ratio()? >= limit),
        }
    }

    fn goal(&self) -> String {
        match self.goal {
            Goal::None => String::new(),
            Goal::AtMostMs(median, max) if median == max => format!("≤ {median} ms"),
            Goal::AtMostMs(median, max) => format!("median ≤ {median} ms, max ≤ {max} ms"),
            Goal::RatioAtMost(limit) => format!("≤ {limit} ×"),
            Goal::RatioAtLeast(limit) => format!("≥ {limit} ×"),
        }
    }
}

/// All rows, as Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from("| what | netsy | etcd | ratio | target | reached |\n|---|---|---|---|---|---|\n");
    for row in rows {
        let cell = |measured: &Option<Measured>| measured.as_ref().map_or("-".to_owned(), |one| one.cell(row.unit));
        let reached = row.reached().map_or("", |reached| if reached { "yes" } else { "**no**" });
        let ratio = row.ratio().map(|ratio| format!("{} ×", number(ratio))).unwrap_or_default();
        text += &format!(
            "| {} | {} | {} | {ratio} | {} | {reached} |\n",
            row.what,
            cell(&row.netsy),
            cell(&row.etcd),
            row.goal()
        );
    }
    text
}

/// All rows, for programs.
pub fn json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "what": row.what,
            "unit": row.unit,
            "netsy": row.netsy.as_ref().map(Measured::json),
            "etcd": row.etcd.as_ref().map(Measured::json),
            "ratio": row.ratio(),
            "target": row.goal(),
            "reached": row.reached(),
        })
    };
    rows.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(values: &[f64]) -> Option<Measured> {
        Some(Measured { values: values.to_vec(), failures: vec![] })
    }

    #[test]
    fn goals() {
        let row = |goal, netsy: &[f64], etcd: &[f64]| Row {
            what: "x".into(),
            unit: "ms",
            netsy: measured(netsy),
            etcd: measured(etcd),
            goal,
        };
        let limit = Goal::AtMostMs(10.0, 30.0);
        assert_eq!(row(limit, &[5.0, 30.0, 9.0], &[]).reached(), Some(true));
        assert_eq!(row(limit, &[5.0, 31.0, 9.0], &[]).reached(), Some(false));
        assert_eq!(row(limit, &[11.0, 30.0, 9.0], &[]).reached(), Some(false));
        assert_eq!(row(limit, &[], &[]).reached(), None);
        assert_eq!(row(Goal::RatioAtLeast(3.0), &[6.0], &[2.0]).reached(), Some(true));
        assert_eq!(row(Goal::RatioAtMost(0.5), &[6.0], &[2.0]).reached(), Some(false));
        let mut failed = row(limit, &[5.0], &[]);
        failed.netsy = Some(Measured { values: vec![5.0], failures: vec!["no".into()] });
        assert_eq!(failed.reached(), Some(false));
        assert!(markdown(&[failed]).contains("1 failed"));
    }
}
