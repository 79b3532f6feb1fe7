//! Reads keys of a parsed cluster file one by one, noting where each value came from, and reports every
//! problem of a file at once.

use super::values;
use serde_json::Value;
use std::time::Duration;

/// Where an effective value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    File,
}

/// One line of `netsy config check`.
#[derive(Clone, Debug)]
pub struct Effective {
    pub key: String,
    pub value: String,
    pub source: Source,
}

/// A cluster file being read.
pub struct Reader<'a> {
    root: &'a Value,
    known: Vec<String>,
    pub effective: Vec<Effective>,
    pub problems: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(root: &'a Value) -> Self {
        Self { root, known: vec![], effective: vec![], problems: vec![] }
    }

    /// The value at a dotted key; a `null` counts as left out.
    fn find(&mut self, key: &str) -> Option<&'a Value> {
        self.known.push(key.to_string());
        key.split('.').try_fold(self.root, |at, part| at.get(part)).filter(|v| !v.is_null())
    }

    fn note(&mut self, key: &str, value: String, source: Source) {
        self.effective.push(Effective { key: key.to_string(), value, source });
    }

    fn problem(&mut self, key: &str, problem: impl std::fmt::Display) {
        self.problems.push(format!("{key}: {problem}"));
    }

    /// A value that `parse` reads, or `default`.
    fn value<T>(
        &mut self,
        key: &str,
        default: T,
        parse: impl FnOnce(&Value) -> Result<T, String>,
        show: impl FnOnce(&T) -> String,
    ) -> T {
        let (value, source) = match self.find(key) {
            None => (default, Source::Default),
            Some(found) => match parse(found) {
                Ok(value) => (value, Source::File),
                Err(problem) => {
                    self.problem(key, problem);
                    return default;
                }
            },
        };
        self.note(key, show(&value), source);
        value
    }

    pub fn text(&mut self, key: &str, default: &str) -> String {
        self.value(key, default.to_string(), text_of, |v| format!("{v:?}"))
    }

    /// A text that may be left out; then nothing is shown for it.
    pub fn optional_text(&mut self, key: &str) -> Option<String> {
        let found = self.find(key)?;
        match text_of(found) {
            Ok(text) => {
                self.note(key, format!("{text:?}"), Source::File);
                Some(text)
            }
            Err(problem) => {
                self.problem(key, problem);
                None
            }
        }
    }

    pub fn optional_bool(&mut self, key: &str) -> Option<bool> {
        let found = self.find(key)?;
        match found.as_bool() {
            Some(b) => {
                self.note(key, b.to_string(), Source::File);
                Some(b)
            }
            None => {
                self.problem(key, format!("{found} is not true or false"));
                None
            }
        }
    }

    pub fn duration(&mut self, key: &str, default: Duration) -> Duration {
        let parse = |v: &Value| match v.as_str() {
            Some(text) => values::duration(text),
            None => Err(format!("{v} is not a duration: write it as a text with a unit, like \"5s\"")),
        };
        self.value(key, default, parse, |d| format!("{:?}", values::show_duration(*d)))
    }

    pub fn bytes(&mut self, key: &str, default: u64) -> u64 {
        let parse = |v: &Value| match (v.as_u64(), v.as_str()) {
            (Some(n), _) => Ok(n),
            (_, Some(text)) => values::bytes(text),
            _ => Err(format!("{v} is not a size: write bytes as a number, or a text like \"1.5 MiB\"")),
        };
        self.value(key, default, parse, |n| format!("{:?}", values::show_bytes(*n)))
    }

    /// A whole number within bounds.
    pub fn number(&mut self, key: &str, default: i64, min: i64, max: i64) -> i64 {
        let parse = |v: &Value| match v.as_i64() {
            Some(n) if (min..=max).contains(&n) => Ok(n),
            _ => Err(format!("{v} is not a whole number from {min} to {max}")),
        };
        self.value(key, default, parse, i64::to_string)
    }

    pub fn one_of(&mut self, key: &str, default: &str, allowed: &[&str]) -> String {
        let parse = |v: &Value| match v.as_str() {
            Some(text) if allowed.contains(&text) => Ok(text.to_string()),
            _ => Err(format!("{v} is not one of {}", allowed.join(", "))),
        };
        self.value(key, default.to_string(), parse, |v| format!("{v:?}"))
    }

    /// Whether the file sets `key`.
    pub fn has(&mut self, key: &str) -> bool {
        self.find(key).is_some()
    }

    pub fn refuse(&mut self, key: &str, problem: impl std::fmt::Display) {
        self.problem(key, problem);
    }

    /// To be called last: whatever was never asked for is unknown, and an error that names the nearest known key.
    pub fn finish(mut self) -> Result<Vec<Effective>, Vec<String>> {
        let mut unknown = vec![];
        collect_unknown(self.root, "", &self.known, &mut unknown);
        for key in unknown {
            let nearest = sections_and_keys(&self.known)
                .filter(|known| *known != key)
                .map(|known| (strsim::damerau_levenshtein(known, &key), known))
                .min()
                .map(|(_, known)| format!("; the nearest known key is {known:?}"))
                .unwrap_or_default();
            self.problems.push(format!("unknown key {key:?}{nearest}"));
        }
        if self.problems.is_empty() { Ok(self.effective) } else { Err(self.problems) }
    }
}

/// `storage` as well as `storage.path`: a section's name can be misspelt, too.
fn sections_and_keys(known: &[String]) -> impl Iterator<Item = &str> {
    known.iter().flat_map(|key| key.match_indices('.').map(|(dot, _)| &key[..dot]).chain([key.as_str()]))
}

fn text_of(v: &Value) -> Result<String, String> {
    v.as_str().map(str::to_string).ok_or_else(|| format!("{v} is not a text"))
}

fn collect_unknown(value: &Value, path: &str, known: &[String], out: &mut Vec<String>) {
    let Value::Object(map) = value else { return };
    for (name, inner) in map {
        let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let is_section = known.iter().any(|k| k.starts_with(&key) && k[key.len()..].starts_with('.'));
        match inner {
            Value::Object(_) if is_section => collect_unknown(inner, &key, known, out),
            _ if known.contains(&key) => {}
            _ => out.push(key),
        }
    }
}
