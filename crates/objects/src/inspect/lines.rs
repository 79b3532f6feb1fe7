//! One JSON object a line, for programs or for people.

use super::values::escaped;
use serde_json::{Value, json};
use std::io::{self, Write};

/// How an object is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InspectFormat {
    /// For people.
    Text,
    /// One JSON object a line, for programs.
    JsonLines,
}

pub(super) struct Lines<'a> {
    out: &'a mut dyn Write,
    format: InspectFormat,
}

impl<'a> Lines<'a> {
    pub(super) fn new(out: &'a mut dyn Write, format: InspectFormat) -> Self {
        Self { out, format }
    }

    /// A line; for people, lists of objects inside it follow indented.
    pub(super) fn line(&mut self, value: Value) -> io::Result<()> {
        match self.format {
            InspectFormat::JsonLines => writeln!(self.out, "{value}"),
            InspectFormat::Text => {
                let kind = value.get("type").and_then(Value::as_str).unwrap_or_default().to_string();
                self.text(0, &kind, &value)
            }
        }
    }

    /// A whole JSON object: as it is for people.
    pub(super) fn document(&mut self, kind: &str, value: Value) -> io::Result<()> {
        match self.format {
            InspectFormat::JsonLines => self.line(json!({"type": kind, "content": value})),
            InspectFormat::Text => {
                serde_json::to_writer_pretty(&mut self.out, &value)?;
                writeln!(self.out)
            }
        }
    }

    fn text(&mut self, depth: usize, title: &str, value: &Value) -> io::Result<()> {
        let Value::Object(fields) = value else { return Ok(()) };
        write!(self.out, "{:depth$}{title}", "", depth = depth * 4)?;
        let is_list = |value: &Value| matches!(value, Value::Array(items) if items.iter().any(Value::is_object));
        for (name, field) in fields.iter().filter(|(name, field)| *name != "type" && !is_list(field)) {
            match field {
                // Kept whole in JSON lines only.
                Value::String(text) if name == "value" || name == "value_hex" => {
                    write!(self.out, " {name}={}", escaped(text))?;
                }
                field => write!(self.out, " {name}={field}")?,
            }
        }
        writeln!(self.out)?;
        for item in fields.values().filter(|field| is_list(field)).filter_map(Value::as_array).flatten() {
            // `{"put": {…}}`
            let Some((name, inner)) = item.as_object().and_then(|item| item.iter().next()) else { continue };
            self.text(depth + 1, name, inner)?;
        }
        Ok(())
    }
}
